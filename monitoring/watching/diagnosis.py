"""What a combination of findings means and what to do: the table of the design as a pure function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from monitoring.watching.findings import State

__all__ = ["Action", "Diagnosis", "diagnose"]

Action = Literal[
    "block_retraining", "retrain_since_drift", "retrain_sliding", "ask_for_labels", "suggest_reference", "schedule_only"
]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What to do, and the sentence that says why."""

    action: Action
    reason: str

    @property
    def retrains(self) -> bool:
        """Whether the finding by itself is a reason to train."""
        return self.action in ("retrain_since_drift", "retrain_sliding")


def diagnose(*, data_quality: State, drift: State, estimated: State, performance: State) -> Diagnosis:
    """The action for the states of one model; the first row that fits.

    Args:
        data_quality: `broken` stops everything else: a model trained on broken data learns the fault.
        drift: the worse of features and score.
        estimated: quality as the version's own answers tell it, never proof.
        performance: quality as labels tell it.

    >>> diagnose(data_quality="ok", drift="ok", estimated="ok", performance="confirmed").action
    'retrain_since_drift'
    """
    if data_quality == "broken":
        return Diagnosis("block_retraining", "the data is broken: mend it upstream before anything is trained on it")
    drifts = drift == "confirmed"
    if performance == "confirmed":
        if drifts:
            return Diagnosis("retrain_sliding", "inputs moved and the loss rose with them")
        return Diagnosis(
            "retrain_since_drift", "the loss rose and inputs did not move: what there is to learn has changed"
        )
    if estimated == "confirmed":
        return Diagnosis("ask_for_labels", "the estimated loss rose: a warning that only labels can prove")
    if drifts and performance in ("ok", "watch"):
        return Diagnosis("suggest_reference", "inputs moved and the loss did not: benign, a newer reference would fit")
    if drifts:
        return Diagnosis("ask_for_labels", "inputs moved and no labels tell yet whether it matters")
    return Diagnosis("schedule_only", "nothing speaks for more than the schedule")
