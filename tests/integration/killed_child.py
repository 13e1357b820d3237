"""A real training child that is killed with -9 at a step: `python -m tests.integration.killed_child STEP SPEC`.

`registered` is the moment after MLflow has the version and before the run knows it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from registry.ledger import Ledger
from retrain.training.child import main


def die() -> None:
    """As the kernel would end it."""
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def arm(step: str) -> None:
    """Die right after the row that begins `step` is committed."""
    record = Ledger.record_run

    def recorded(self: Ledger, run_id: str, model: str, *, step: str, **more: Any) -> None:
        record(self, run_id, model, step=step, **more)
        if step == wanted and not more["body"]["facts"].get("resumed"):
            die()

    wanted = step
    Ledger.record_run = recorded  # type: ignore[method-assign]
    if step == "registered":
        from registry.mlflow_store import Store

        register = Store.register

        def registered(self: Store, *arguments: Any, **more: Any) -> int:
            register(self, *arguments, **more)
            die()
            raise AssertionError

        Store.register = registered  # type: ignore[method-assign]


if __name__ == "__main__":
    arm(sys.argv[1])
    raise SystemExit(main(sys.argv[2:]))
