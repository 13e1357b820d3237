"""How long a certificate of 10,000 rows × 30 columns takes: `python -m bench.registry.certificate` prints JSON."""

from __future__ import annotations

import json
import sys
import time

from bench.registry.subject import cpu_seconds, forest, histogram
from registry.export import to_onnx
from registry.infer import infer_contract
from registry.parity import certify, onnx_runner


def main() -> None:
    """Certify a forest and a histogram gradient boosting of 200 trees each."""
    for kind in (forest, histogram):
        estimator, frame, _ = kind()
        contract = infer_contract(estimator, frame, "bench")
        run = onnx_runner(to_onnx(estimator, contract))
        began, before = time.perf_counter(), cpu_seconds()
        certificate = certify(estimator, run, contract, frame)
        found = {
            "estimator": type(estimator).__name__,
            "rows": len(frame),
            "columns": len(frame.columns),
            "adversarial_rows": certificate["adversarial_rows"],
            "verdict": certificate["verdict"],
            "seconds": round(time.perf_counter() - began, 2),
            "cpu_seconds": round(cpu_seconds() - before, 2),
            "bar_seconds": 20,
        }
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
