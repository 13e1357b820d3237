"""The engine alone: `session.run` in a loop, one thread, the tensors ready. Prints seconds a call as JSON.

`python -m bench.peers.limits.session_run MODEL ROWS.npz SIZE...`: the file holds the graph's inputs; SIZE is a number
of rows, taken from the file again and again, or `all`, the file as it is.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import onnxruntime as ort

SECONDS = 2.0
WARM_UP = 20


def _cycle(values: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    return np.take(values, np.arange(rows) % len(values), axis=0)


def main() -> None:
    """Time each batch size."""
    model, file, *sizes = sys.argv[1:]
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [found.name for found in session.get_outputs()]
    with np.load(file, allow_pickle=True) as kept:
        rows = {name: kept[name] for name in kept.files}
    found = {}
    for size in sizes:
        tensors = rows if size == "all" else {name: _cycle(values, int(size)) for name, values in rows.items()}
        for _ in range(WARM_UP):
            session.run(names, tensors)
        calls, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < SECONDS:
            session.run(names, tensors)
            calls += 1
        found[size] = took / calls
    print(json.dumps(found))


if __name__ == "__main__":
    main()
