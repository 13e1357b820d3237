"""Realised quality: has the champion's loss risen above what it was accepted with?

A mixture of Shiryaev-Roberts processes on bounded losses. Whatever the losses' distribution, as long as their
mean stays at or under the null level, the mean time to a false alarm is at least `run_length` labels. The null
level is never raised by itself: re-basing an alarm on a worse model hides what it is there to show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from monitoring.watching.findings import Severity

STEPS: Final = (0.03, 0.06, 0.12, 0.24)
"""Rises of the mean loss, above the null level, that the four processes are tuned for."""
CEILING: Final = 1e12
"""Where a process stops growing: far beyond any alarm, far from overflow."""


class ESR(msgspec.Struct):
    """State of the detector. `begun[j]` is the event time since which process j has evidence of a change."""

    null_level: float
    processes: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(STEPS))
    cusums: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(STEPS))
    begun: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(STEPS))
    labels: int = 0

    @property
    def evalue(self) -> float:
        """Mean of the processes; alarm when it reaches the run length."""
        return sum(self.processes) / len(self.processes)

    @property
    def since(self) -> float:
        """Most likely event time of the change, unix seconds, by the strongest process."""
        return self.begun[max(range(len(STEPS)), key=lambda j: self.processes[j])]


def null_level(quality: Mapping[str, Any], tolerance: float, relative: float) -> float | None:
    """Upper 95 % confidence bound of the reference's mean loss plus the larger tolerance, at most 0.95.

    None when the reference has no losses: then there is nothing to compare with.

    >>> round(null_level({"n": 2500, "loss": 0.2, "loss_sd": 0.1}, 0.02, 0.05), 4)
    0.2233
    """
    n, loss = quality.get("n") or 0, quality.get("loss")
    if not n or loss is None:
        return None
    upper = float(loss) + 1.645 * float(quality.get("loss_sd") or 0.0) / math.sqrt(n)
    return min(max(upper + max(tolerance, relative * upper), 1e-3), 0.95)


def update(state: ESR, loss: float, at: float) -> None:
    """Add one loss in [0, 1] of the prediction made at event time `at`.

    M_j <- (M_j + 1) (q_j/h)^x ((1-q_j)/(1-h))^(1-x), which is at most (M_j + 1) on average for any x in
    [0, 1] of mean h or less: the factor is under the straight line between its values at 0 and 1.
    """
    h = state.null_level
    for j, step in enumerate(STEPS):
        q = min(h + step, (1.0 + h) / 2.0)
        gain = loss * math.log(q / h) + (1.0 - loss) * math.log((1.0 - q) / (1.0 - h))
        state.processes[j] = min((state.processes[j] + 1.0) * math.exp(gain), CEILING)
        if state.cusums[j] <= 0.0:
            state.begun[j] = at
        state.cusums[j] = min(max(state.cusums[j] + gain, 0.0), 1e6)
    state.labels += 1


def severity(mean_loss: float, level: float) -> Severity:
    """How far the recent mean loss lies above the null level, in the steps of the detector."""
    excess = mean_loss - level
    return "high" if excess >= STEPS[2] else "medium" if excess >= STEPS[1] else "low"
