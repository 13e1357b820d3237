"""How long `log_model` takes for a model of 200 trees: `python -m bench.registry.log_model` prints JSON."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from bench.registry.subject import cpu_seconds, forest, histogram
from registry.log import log_model
from registry.mlflow_store import Store


def main() -> None:
    """Log a forest and a histogram gradient boosting of 200 trees each, imports and an empty store made before."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/mlflow.db", Path(folder) / "artifacts")
        store.prepare()
        for kind in (histogram, forest):
            estimator, frame, labels = kind()
            # the first call pays for imports
            log_model(estimator, frame.head(100), labels[:100], name="warm", store=store)
            began, before = time.perf_counter(), cpu_seconds()
            steps: dict[str, float] = {}

            def progress(step: str, _: str, began: float = began, steps: dict[str, float] = steps) -> None:
                steps[step] = round(time.perf_counter() - began, 2)

            version = log_model(estimator, frame, labels, name=kind.__name__, store=store, progress=progress)
            found = {
                "estimator": type(estimator).__name__,
                "rows": len(frame),
                "columns": len(frame.columns),
                "verdict": version.verdict,
                "seconds": round(time.perf_counter() - began, 2),
                "cpu_seconds": round(cpu_seconds() - before, 2),
                "until": steps,
                "bar_seconds": 15,
            }
            sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
