"""What an Alertmanager sends, and the rows of evidence that follow from it. Pure but for `write`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal
from unicodedata import category

import msgspec

if TYPE_CHECKING:
    from registry.ledger import Ledger

__all__ = ["Notification", "rows", "write"]

KIND: Final = "alert"
MOST: Final = 500
"""Alerts of one notification that are looked at; Alertmanager tells how many more there are."""
_LABELS: Final = 32
_TEXT: Final = 200
_KNOWN: Final = 500
"""Newest rows of a model among which a repeat is looked for: Alertmanager repeats what still fires."""


class Alert(msgspec.Struct, frozen=True):
    """One alert of a notification."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    startsAt: str  # noqa: N815 - as Alertmanager spells it
    fingerprint: str = ""


class Notification(msgspec.Struct, frozen=True):
    """Alertmanager's webhook, version 4, as far as we read it."""

    version: str
    alerts: list[Alert]


def rows(
    told: Notification, deployed: Collection[str], allowed: Collection[str], actor: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The model and the body of each alert about a deployed model; `allowed` is what the key may speak of, or all."""
    for alert in told.alerts[:MOST]:
        model = alert.labels.get("model", "")
        if model not in deployed or (allowed and model not in allowed):
            continue
        labels = {_plain(name): _plain(text) for name, text in sorted(alert.labels.items())[:_LABELS]}
        for asked in ("retrain", "rollback"):  # what is acted on is never among those that are cut off
            if asked in alert.labels:
                labels[asked] = _plain(alert.labels[asked])
        yield (
            model,
            {
                "alert": _plain(alert.labels.get("alertname", "")),
                "status": alert.status,
                "labels": labels,
                "starts_at": _plain(alert.startsAt)[:40],
                "fingerprint": _plain(alert.fingerprint)[:64],
                "actor": actor,
            },
        )


def _plain(text: str) -> str:
    """Without what terminals obey: names of alerts become reasons in the ledger, which are shown in many places."""
    return "".join("\N{REPLACEMENT CHARACTER}" if category(c)[0] == "C" else c for c in text[:_TEXT])


def write(ledger: Ledger, told: Notification, allowed: Collection[str], actor: str) -> dict[str, int]:
    """Write each alert once for each time that it started and ended; says how many were written, known and left out.

    Those of a model are written all or none: five hundred commits would keep an Alertmanager waiting on a slow disk.
    """
    known: dict[str, set[tuple[str, ...]]] = {}
    fresh: dict[str, list[dict[str, Any]]] = {}
    counts = {"written": 0, "known": 0, "ignored": len(told.alerts)}
    for model, body in rows(told, ledger.deployments().keys(), allowed, actor):
        if model not in known:
            known[model] = {_key(row.body) for row in ledger.evidence(model, KIND, limit=_KNOWN)}
        counts["ignored"] -= 1
        if _key(body) in known[model]:
            counts["known"] += 1
            continue
        known[model].add(_key(body))
        fresh.setdefault(model, []).append(body)
        counts["written"] += 1
    for model, bodies in fresh.items():
        ledger.append_evidence(model, KIND, bodies)
    return counts


def _key(body: Mapping[str, Any]) -> tuple[str, ...]:
    """A firing alert of Alertmanager has an end in the future that moves: it is no part of what it is."""
    by = body.get("fingerprint") or str(sorted(body.get("labels", {}).items()))
    return str(by), str(body.get("starts_at")), str(body.get("status"))
