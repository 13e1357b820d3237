"""What a look at a trial comes to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["HARM", "WAITING", "Action", "Decision"]

Action = Literal[
    "continue",
    "pause",
    "advance",
    "reweigh",
    "promote",
    "keep",
    "reject",
    "rollback",
    "inconclusive",
    "abort",
]
#: What leaves everything as it is: no row is written for it.
WAITING = frozenset({"continue", "pause"})
#: Log e-value at which harm is taken for proved: it errs in at most one trial of a hundred.
HARM = math.log(100.0)


@dataclass(frozen=True, slots=True)
class Decision:
    """`facts` are the numbers behind the action: log e-values, effect, interval, counts. `cause` is of a rollback."""

    action: Action
    reason: str
    facts: dict[str, Any] = field(default_factory=dict)
    cause: str = ""
