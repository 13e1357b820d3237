"""A finding: monitoring's verdict on one aspect of one model, made when that verdict changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

Kind = Literal["data_quality", "feature_drift", "score_drift", "estimated", "performance"]
State = Literal["ok", "watch", "confirmed", "insufficient", "broken"]
Severity = Literal["none", "low", "medium", "high"]

ALARMS: Final[tuple[State, ...]] = ("confirmed", "broken")
KINDS: Final[tuple[Kind, ...]] = ("data_quality", "feature_drift", "score_drift", "estimated", "performance")


@dataclass(frozen=True, slots=True)
class Finding:
    """The new state of one kind, the event time at which it was reached, and what it rests on."""

    model: str
    kind: Kind
    state: State
    severity: Severity
    at: datetime
    detail: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form kept as evidence in the ledger."""
        return {
            "model": self.model,
            "kind": self.kind,
            "state": self.state,
            "severity": self.severity,
            "at": self.at.isoformat(),
            "detail": self.detail,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Finding:
        """Read the JSON form."""
        return cls(
            data["model"],
            data["kind"],
            data["state"],
            data["severity"],
            datetime.fromisoformat(data["at"]),
            data["detail"],
        )
