"""What was found, in a line or two of plain words: the finding, what causes it, what it means and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from monitoring.watching.diagnosis import Action, diagnose
from monitoring.watching.findings import ALARMS, State
from registry.ledger import Evidence

__all__ = ["meaning", "of_version", "sentence", "standing"]

SHOWN: Final = 3
"""Columns that a sentence names; the row of evidence has the others."""
ADVICE: Final[Mapping[Action, str]] = {
    "block_retraining": "mend the data; until then nothing is trained on it",
    "retrain_since_drift": "retrain on what came since",
    "retrain_sliding": "retrain on the newest rows",
    "ask_for_labels": "send labels, at least of a sample",
    "suggest_reference": "nothing now; a version logged on newer rows has a reference that fits",
    "schedule_only": "nothing beyond the schedule",
}
_URGENCY = ("data_quality", "performance", "estimated", "score_drift", "feature_drift")


def sentence(body: Mapping[str, Any]) -> str:
    """One line about a finding: kind, state, since when and, of an alarm, what it rests on."""
    line = f"{body.get('kind')}: {body.get('state')} ({body.get('severity')}) at {str(body.get('at'))[:10]}"
    grounds = _grounds(str(body.get("kind")), body.get("detail") or {}) if body.get("state") in ALARMS else ""
    return f"{line}: {grounds}" if grounds else line


def meaning(findings: Sequence[Evidence]) -> str:
    """What findings about one version, newest first, mean together, and what to do; empty while none is an alarm."""
    if not standing(findings):
        return ""
    states = {kind: _state(row.body) for kind, row in _newest(findings).items()}
    drift = [state for kind, state in states.items() if kind in ("feature_drift", "score_drift")]
    found = diagnose(
        data_quality=states.get("data_quality", "insufficient"),
        drift="confirmed" if "confirmed" in drift else "ok",
        estimated=states.get("estimated", "insufficient"),
        performance=states.get("performance", "insufficient"),
    )
    return f"{found.reason}. To do: {ADVICE[found.action]}"


def of_version(findings: Sequence[Evidence], version: object) -> list[Evidence]:
    """Those about one version: what was found of another champion ended with it."""
    return [row for row in findings if (row.body.get("detail") or {}).get("version") == version]


def standing(findings: Sequence[Evidence]) -> list[Evidence]:
    """Of findings about one version, newest first, the newest of each kind if it is an alarm; what stops most first."""
    newest = _newest(findings)
    ordered = [*(kind for kind in _URGENCY if kind in newest), *(kind for kind in newest if kind not in _URGENCY)]
    return [newest[kind] for kind in ordered if newest[kind].body["state"] in ALARMS]


def _newest(findings: Sequence[Evidence]) -> dict[str, Evidence]:
    found: dict[str, Evidence] = {}
    for row in findings:
        found.setdefault(row.body["kind"], row)
    return found


def _state(body: Mapping[str, Any]) -> State:
    """What a known event explains is only watched."""
    state: State = body["state"]
    return "watch" if state == "confirmed" and (body.get("detail") or {}).get("known_event") else state


def _grounds(kind: str, detail: Mapping[str, Any]) -> str:
    if kind == "data_quality":
        return "; ".join(
            f"{c['column']}: {c['fault'].replace('_', ' ')} {c['share']:.1%}, {c['expected']:.1%} in the reference"
            for c in detail.get("checks", ())[:SHOWN]
        )
    if kind == "performance":
        return _loss(detail)
    if kind == "estimated" and "estimated_loss" in detail:
        band = f"{detail['estimated_loss']:.3g} (99 %: {detail['lower']:.3g} to {detail['upper']:.3g})"
        return f"estimated loss {band}, where {detail['null_level']:.3g} is tolerated; no label proves it yet"
    return _columns(detail)


def _loss(detail: Mapping[str, Any]) -> str:
    name, now, before = (detail.get("metric"), detail.get("realized"), detail.get("reference"))
    if now is None or before is None:
        name, now, before = "loss", detail.get("loss"), detail.get("reference_loss")
    if now is None or before is None:
        return ""
    part = detail.get("slice") or next(iter(detail.get("worst_slices") or ()), None)
    where = f", worst where {part['column']} is {part['value']}" if part else ""
    since = f", since {str(detail['since'])[:10]}" if detail.get("since") else ""
    return f"{name} {now:.3g}, {before:.3g} on the reference{where}{since}, by {detail.get('labels', 0):,} labels"


def _columns(detail: Mapping[str, Any]) -> str:
    """The flagged columns, the likeliest cause first: how far they moved, times how much the model heeds them."""
    flagged = set(detail.get("flagged", ()))
    told = []
    for cause in [c for c in detail.get("columns", ()) if c["column"] in flagged][:SHOWN]:
        parts = [f"PSI {cause['psi']:.2g}"]
        if cause.get("importance") is not None:
            parts.append(f"importance {cause['importance']:.2g}")
        if cause.get("score_moved"):
            parts.append(f"moves the score by {cause['score_moved']:+.3g}")
        name = "the score" if cause["column"] == "_score" else cause["column"]
        told.append(f"{name} ({', '.join(parts)})")
    more = len(flagged) - len(told)
    if told and more > 0:
        told.append(f"{more} more")
    known = f" in the known event {detail['known_event']}" if detail.get("known_event") else ""
    return ", ".join(told) + known
