"""`python -m retrain --home DIR --settings FILE.json`: the worker process."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from registry import process_log
from registry.child import die_with_parent
from registry.errors import PereneError
from retrain.settings import WorkerSettings
from retrain.worker import create_worker, serve_metrics


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker until SIGTERM or SIGINT; exit 2 when it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m retrain", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="folder of the installation")
    parser.add_argument("--settings", type=Path, help="JSON of WorkerSettings; without it models are only watched")
    parser.add_argument("--port", type=int, help="overrides the port of /metrics")
    parser.add_argument("--parent", type=int, default=0, help="die with this process")
    options = parser.parse_args(arguments)
    if options.parent:
        die_with_parent(options.parent, signal.SIGKILL)
    os.environ.setdefault("DO_NOT_TRACK", "true")
    process_log.configure()
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    try:
        text = options.settings.read_text() if options.settings else "{}"
        settings = WorkerSettings.model_validate_json(text)
        if options.port is not None:
            settings = settings.model_copy(update={"port": options.port})
        worker = create_worker(settings, options.home)
        port = serve_metrics(worker)
    except (ValidationError, PereneError, OSError) as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            reason = "; ".join(e["msg"] for e in error.errors(include_input=False))
        sys.stderr.write(f"the worker cannot start: {reason}\n")
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    logging.getLogger("perene.retrain").info("worker.started: metrics on port %d", port)
    worker.run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
