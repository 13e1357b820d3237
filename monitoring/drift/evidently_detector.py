"""The detector `evidently`: its defaults decide, on windows as they are counted.

A window is counts, so rows are laid out from them: as many in every bin as were counted, evenly spread over it, of the
reference likewise. Both sides lose the same, and the verdict depends on the counts alone. Evidently costs seconds and
300 MB, so it runs in a child that answers questions and ends by itself soon after the last one.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from monitoring.drift.detectors import DetectorFailed, Reading, moved, sides
from monitoring.drift.drift import APART
from monitoring.drift.windows import Window
from registry.child import die_with_parent

if TYPE_CHECKING:
    from monitoring.settings import MonitoringSettings

__all__ = ["by_evidently", "laid_out"]

ROWS: Final = 20_000
"""Rows laid out at most: more change no verdict."""
IDLE_S: Final = 20.0
LIMIT_S: Final = 120.0
"""Time of one answer, the start of the child included."""


@dataclass
class _Child:
    """Evidently in a process of its own, started when it is asked."""

    process: subprocess.Popen[bytes] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, question: dict[str, Any]) -> dict[str, bool]:
        """Its verdicts.

        Raises:
            DetectorFailed: it ended, or did not answer in time.
        """
        with self.lock:
            line = json.dumps(question).encode() + b"\n"
            answer = self._once(line) or self._once(line)  # it may have ended by itself just now
        if not answer:
            raise DetectorFailed("Evidently did not answer", where="detector", expected=f"within {LIMIT_S:g} s")
        found: dict[str, bool] = json.loads(answer)
        return found

    def _once(self, line: bytes) -> bytes:
        process = self._running()
        if process.stdin is None or process.stdout is None:  # never: both are pipes
            return b""
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except OSError:
            self._end()
            return b""
        ready, _, _ = select.select([process.stdout], [], [], LIMIT_S)
        answer = process.stdout.readline() if ready else b""
        if not answer:
            self._end()
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self._end()
            atexit.register(self._end)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "monitoring.drift.evidently_detector", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # its warnings may hold values
                env={"OMP_NUM_THREADS": "1", **os.environ, "DO_NOT_TRACK": "true"},
            )
        return self.process

    def _end(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what was written last cannot be flushed: there is nobody to read it
                    continue


_CHILD: Final = _Child()


def by_evidently(
    specs: Mapping[str, dict[str, Any]],
    closed: Sequence[Window],
    settings: MonitoringSettings,
    *,
    alarmed: Collection[str] = (),
) -> list[Reading]:
    """Evidently's verdict on the newest window; `alarmed` does not matter to it.

    Raises:
        DetectorFailed: it did not answer.
    """
    found, asked = [], {}
    for number, (name, spec) in enumerate(specs.items()):
        window, reference = sides(spec, closed[-1], name)
        rows = int(window.sum())
        if rows < settings.min_rows or reference.sum() <= 0:
            continue
        # by number: names of columns are no business of the child
        asked[str(number)] = {"spec": _plain(spec), "window": window.tolist(), "reference": reference.tolist()}
        found.append((str(number), name, moved(spec, window, reference), rows))
    said = _CHILD.ask(asked) if asked else {}
    return [Reading(name, 1, psi, p, rows, said.get(key, False)) for key, name, (psi, p), rows in found]


def laid_out(spec: Mapping[str, Any], counted: Sequence[float]) -> npt.NDArray[Any]:
    """Rows with these counts, in the cells of `monitoring.drift.drift.cells`; what is null or infinite is left out.

    >>> spec = {"kind": "number", "edges": [10.0], "minimum": 0.0, "maximum": 20.0}
    >>> laid_out(spec, [3, 0, 2, 1]).tolist()
    [2.5, 7.5, 15.0]
    """
    counts = np.asarray(counted, np.float64)
    total = counts.sum()
    if total > ROWS:
        counts = counts * (ROWS / total)
    whole = np.diff(np.concatenate(([0], np.rint(np.cumsum(counts))))).astype(np.int64)
    if spec["kind"] == "category":
        return np.repeat(np.arange(len(whole) - 1).astype(str), whole[1:])
    low, high = spec["minimum"], spec["maximum"]
    low, high = (0.0, 0.0) if low is None else (float(low), float(high))
    bounds = [low, *spec["edges"], high]
    parts = [_spread(bounds[i], bounds[i + 1], n) for i, n in enumerate(whole[-len(bounds) + 1 :])]
    if len(bounds) == APART:  # a constant: what lies below and above has cells of its own
        parts += [np.full(whole[2], low - 1.0), np.full(whole[3], high + 1.0)]
    return np.concatenate(parts)


def _spread(low: float, high: float, n: int) -> npt.NDArray[np.float64]:
    return low + (high - low) * (np.arange(n) + 0.5) / max(n, 1)


def _plain(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: spec[name] for name in ("kind", "edges", "minimum", "maximum") if name in spec}


def _answer(question: Mapping[str, Any]) -> dict[str, bool]:
    import pandas as pd

    from monitoring.reports.evidently_report import drifted_columns

    frames = []
    for side in ("reference", "window"):
        columns = {key: pd.Series(laid_out(asked["spec"], asked[side])) for key, asked in question.items()}
        frames.append(pd.DataFrame(columns))
    numbers = [key for key, asked in question.items() if asked["spec"]["kind"] == "number"]
    return drifted_columns(frames[0], frames[1], numbers)


def main(arguments: Sequence[str]) -> int:
    """Answer a line of questions with a line of verdicts, until nobody asks any more."""
    die_with_parent(int(arguments[0]), signal.SIGKILL)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    while select.select([sys.stdin], [], [], IDLE_S)[0]:
        line = sys.stdin.buffer.readline()
        if not line:
            break
        out.write(json.dumps(_answer(json.loads(line))).encode() + b"\n")
        out.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
