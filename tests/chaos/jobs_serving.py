"""`python -m serving` with a bug that the test of jobs must see: it says 202 before the queue has committed.

The commit follows a quarter of a second later, as if an event loop had been asked to do it when there is time.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from serving.jobs.queue import Queue
from serving.main import main

careful_add = Queue.add


def early(queue: Queue, job: Any) -> Any:
    """Acknowledge, then write."""

    def later() -> None:
        time.sleep(0.25)
        careful_add(queue, job)

    threading.Thread(target=later, daemon=True).start()
    return job, True


if __name__ == "__main__":
    Queue.add = early  # type: ignore[method-assign, assignment]
    sys.exit(main())
