"""Evidently's report on a model: two samples of its log, the page, and both verdicts side by side."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from monitoring.lake.lake import Lake
from monitoring.reading.compared import Compared, Window, compared
from monitoring.reading.examples import Example, examples
from monitoring.reports.page import html, markdown
from registry.bundle import Bundle
from registry.ledger import Ledger
from retrain.reports.finding_page import HTML, MARKDOWN, page
from retrain.reports.report_spec import Spec, begun, bundle_of

if TYPE_CHECKING:
    from retrain.places import Places

__all__ = ["write_drift_report"]

FINDINGS: Final = 1_000
"""Newest findings among which the one in question is looked for: a worker may come to report late."""


def write_drift_report(spec: Spec, places: Places, draft: Path) -> dict[str, Any] | None:
    """Write Evidently's files into the folder `draft`; what is known of them, or None when there are too few rows."""
    from monitoring.drift.contributions import FILE, contribution_shift
    from monitoring.reports.evidently_report import VERDICTS, write_report

    facts: dict[str, Any] = {"begun": begun(), "version": spec.version}
    # before the first row is read: an erasure goes by the age of a report's oldest file
    (draft / "begun.json").write_text(json.dumps(facts))
    bundle = bundle_of(spec)
    accepted = (bundle.reference.get("window") or {}).get("end")
    found = compared(
        Lake(places.lake),
        spec.model,
        bundle.contract,
        spec.version,
        Window(spec.low, spec.high),
        accepted=accepted,
    )
    if not found.enough:
        return None
    files = write_report(found.reference.to_pandas(), found.current.to_pandas(), bundle.contract, draft)
    shift = contribution_shift(bundle, found.reference, found.current)
    (draft / FILE).write_text(json.dumps(shift, indent=1))
    ours = _ours(spec, places)
    shown = _shown(spec, places, bundle, draft)
    return facts | {
        "rows": {"reference": found.reference.num_rows, "window": found.current.num_rows},
        "window": _span(found),
        "ours": ours,
        "evidently": sorted(name for name, drifts in files.drifted.items() if drifts),
        "columns": len(files.drifted),
        "left_out": files.left_out,
        "moved_answers": shift["columns"][:5],
        "examples": [one.named() for one in shown],
        "files": [files.html.name, files.json.name, VERDICTS, FILE, *([HTML, MARKDOWN] if spec.finding else [])],
    }


def _shown(spec: Spec, places: Places, bundle: Bundle, draft: Path) -> list[Example]:
    """The page of the finding that this report is on, with example rows; only their ids go further than the page."""
    if spec.finding is None:
        return []
    with closing(Ledger.open(places.ledger_url)) as ledger:
        rows = ledger.evidence(spec.model, "finding", limit=FINDINGS)
    body = next((row.body for row in rows if row.id == spec.finding), None)
    if body is None:
        body = {"kind": "finding", "state": "-", "severity": "-", "at": "-", "detail": {}}
    found = examples(Lake(places.lake), spec.model, bundle.contract, bundle.reference["columns"], body)
    made = page(spec.model, body, found)
    (draft / HTML).write_text(html(made), encoding="utf-8")
    (draft / MARKDOWN).write_text(markdown(made), encoding="utf-8")
    return found


def _span(found: Compared) -> dict[str, str]:
    at = found.current.column("_at").cast("int64").to_numpy()
    first, last = (datetime.fromtimestamp(int(bound) / 1e6, UTC).isoformat() for bound in (at.min(), at.max()))
    return {"start": first, "end": last}


def _ours(spec: Spec, places: Places) -> dict[str, Any]:
    """What our own detector says: the finding's verdict, or the newest on inputs."""
    with closing(Ledger.open(places.ledger_url)) as ledger:
        rows = ledger.evidence(spec.model, "finding", limit=FINDINGS)
    for row in rows:
        wanted = row.id == spec.finding if spec.finding is not None else row.body["kind"] == "feature_drift"
        if wanted:
            names = row.body["detail"].get("flagged", [])
            return {"finding": row.id, "kind": row.body["kind"], "state": row.body["state"], "flagged": names}
    return {"finding": None, "kind": "feature_drift", "state": "ok", "flagged": []}
