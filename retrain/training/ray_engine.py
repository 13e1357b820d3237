"""Training as tasks of a Ray cluster: one for each window. The child drives; the worker never imports Ray.

Records and files are those of every run: what a task returns is kept as if it had been fitted here, so a run that is
killed goes on from the windows that are finished.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import pandas as pd

from registry.errors import PereneError, StoreUnavailable, TrainingFailed

__all__ = ["fitted_on"]

LOCAL: Final = "local"
CONNECT_S: Final = 60.0
_POLL_S: Final = 0.5


@contextmanager
def cluster(address: str) -> Iterator[Any]:
    """A cluster: the one at `address`, or one of our own on this machine that ends with the run.

    Raises:
        StoreUnavailable: there is none.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    own = address == LOCAL
    sized: dict[str, Any] = {"num_cpus": len(os.sched_getaffinity(0)), "object_store_memory": 256 << 20} if own else {}
    if own:
        sized["include_dashboard"] = False
    try:
        ray.init(address=LOCAL if own else address, log_to_driver=True, logging_level=logging.ERROR, **sized)
    # what Ray raises when nobody answers differs by what is wrong: connection, version, time
    except Exception as error:
        raise StoreUnavailable(
            f"the Ray cluster does not answer: {type(error).__name__}", where="ray_address", hint="ray status shows it"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def fitted_on(
    address: str,
    rows: Mapping[str, pd.DataFrame],
    fit: Callable[[pd.DataFrame], Any],
    *,
    memory_mb: int,
    seconds: float,
) -> Iterator[tuple[str, Any]]:
    """Fit each window's rows as a task; estimators come in the order in which they are finished.

    Args:
        address: of the cluster; `local` starts one.
        rows: by window.
        fit: called where the task runs, so it must be importable there.
        memory_mb: that a task may take.
        seconds: for all of them together.

    Raises:
        TrainingFailed: the trainer failed, or the time is up.
        StoreUnavailable: there is no cluster.
    """
    if not rows:
        return
    with cluster(address) as ray:
        task = ray.remote(num_cpus=1, max_retries=1)(_bounded(fit, memory_mb))
        waiting = {task.remote(frame): name for name, frame in rows.items()}
        deadline = time.monotonic() + seconds
        try:
            while waiting:
                done, _ = ray.wait(list(waiting), timeout=_POLL_S)
                for reference in done:
                    yield waiting.pop(reference), _taken(ray, reference)
                if waiting and time.monotonic() > deadline:
                    raise TrainingFailed("the tasks on Ray ran out of time", where="training_timeout_s")
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


def _bounded(fit: Callable[[pd.DataFrame], Any], memory_mb: int) -> Callable[[pd.DataFrame], Any]:
    """A plain function, as Ray wants it, that fits within a limit; the process belongs to the cluster afterwards."""

    def task(frame: pd.DataFrame) -> Any:
        import resource

        before = resource.getrlimit(resource.RLIMIT_DATA)
        most = memory_mb << 20 if before[1] == resource.RLIM_INFINITY else min(memory_mb << 20, before[1])
        resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
        try:
            return fit(frame)
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)

    return task


def _taken(ray: Any, reference: Any) -> Any:
    """A task's estimator."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, (PereneError, MemoryError)):
            raise cause from error
        raise TrainingFailed(f"the task on Ray raised {type(cause).__name__}", where="engine") from error
    except ray.exceptions.OutOfMemoryError as error:
        raise MemoryError from error
    except ray.exceptions.RayError as error:
        raise TrainingFailed(f"the task on Ray was lost: {type(error).__name__}", where="engine") from error
