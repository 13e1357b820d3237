"""A report on how a model did over a span: from the event lake and the ledger, as HTML and as Markdown."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from monitoring.lake.lake import Lake
from monitoring.reading.period import Period, fold
from monitoring.reports.page import html, markdown
from monitoring.settings import MonitoringSettings
from registry.baseline import build_baseline
from registry.bundle import Bundle
from registry.contract import Contract
from registry.ledger import Ledger
from registry.original import Answers
from retrain.reports.performance_page import page
from retrain.reports.report_spec import Spec, begun, bundle_of
from retrain.watch import saved_snapshot

if TYPE_CHECKING:
    from retrain.places import Places

__all__ = ["HTML", "MARKDOWN", "write_performance"]

HTML: Final = "performance.html"
MARKDOWN: Final = "performance.md"
_LIMIT: Final = 5_000
"""Rows of the ledger that are looked through, of each kind."""


def write_performance(spec: Spec, places: Places, draft: Path) -> dict[str, Any] | None:
    """Write both files into the folder `draft`; what is known of them, or None when nothing was answered."""

    facts: dict[str, Any] = {"begun": begun(), "version": spec.version}
    # before the first row is read: an erasure goes by the age of a report's oldest file
    (draft / "begun.json").write_text(json.dumps(facts))
    bundle = bundle_of(spec)
    settings = MonitoringSettings.model_validate(spec.settings)
    period = fold(Lake(places.lake), bundle, spec.version, low=spec.low, high=spec.high)
    if not period.rows:
        return None
    with closing(Ledger.open(places.ledger_url)) as ledger:
        told = {
            "snapshot": saved_snapshot(ledger, spec.model, bundle, settings),
            **_history(ledger, spec.model, spec.low, spec.high),
        }
    found = page(spec, bundle, period, _quality(bundle, period, settings), told)
    (draft / HTML).write_text(html(found), encoding="utf-8")
    (draft / MARKDOWN).write_text(markdown(found), encoding="utf-8")
    return facts | {
        "rows": period.rows,
        "labels": period.losses,
        "window": {"start": iso(spec.low), "end": iso(spec.high)},
        "files": [HTML, MARKDOWN],
    }


def iso(micros: int | None) -> str | None:
    """A time as text; None stays so."""
    return None if micros is None else datetime.fromtimestamp(micros / 1e6, UTC).isoformat()


def _quality(bundle: Bundle, period: Period, settings: MonitoringSettings) -> dict[str, Any]:
    """Metrics with intervals, overall and by slice, and those of one's own: a value, or why there is none."""
    sample = period.sample
    if sample is None or len(sample) < 2:
        return {}
    contract = bundle.contract
    truth = sample.labels if contract.output.kind == "regression" else _classes(contract, sample.labels)
    chosen = None if contract.output.kind == "regression" else np.argmax(sample.values, axis=1)
    entries = bundle.reference.get("baseline", {}).get("slices", [])
    slices = list(dict.fromkeys(entry["column"] for entry in entries if entry["column"] in sample.frame))
    found = build_baseline(contract, Answers(sample.values, chosen), truth, sample.frame, slices=slices)
    answers = sample.values[:, 0] if chosen is None else _classes(contract, chosen)
    return found | {"own": {name: _own(name, truth, answers) for name in settings.metrics}}


def _classes(contract: Contract, index: Any) -> Any:
    return np.asarray(contract.output.classes)[index]


def _own(name: str, truth: Any, answers: Any) -> float | str:
    """Somebody's function: what it raises costs its own line of the report, and no more."""
    module, _, attribute = name.partition(":")
    try:
        value = float(getattr(importlib.import_module(module), attribute)(truth, answers))
    except Exception as error:  # see above
        return f"failed: {type(error).__name__}"
    return value if np.isfinite(value) else "not a finite number"


def _history(ledger: Ledger, model: str, low: int | None, high: int | None) -> dict[str, Any]:
    """Findings, reports on them, runs, trials and moves of the span, oldest first."""

    def within(at: str | datetime | None) -> bool:
        if at is None:
            return False
        moment = datetime.fromisoformat(at) if isinstance(at, str) else at
        micros = int(moment.timestamp() * 1e6)
        return (low is None or micros >= low) and (high is None or micros < high)

    findings = ledger.evidence(model, "finding", limit=_LIMIT)[::-1]
    reports = {row.body.get("finding"): row.body for row in ledger.evidence(model, "report", limit=_LIMIT)}
    runs = ledger.runs(model, limit=_LIMIT)[::-1]
    trials = ledger.experiments(model, limit=_LIMIT)[::-1]
    return {
        "findings": [{"id": row.id, **row.body, "within": within(row.body["at"])} for row in findings],
        "reports": reports,
        "runs": [row for row in runs if within(_when(row.body.get("spec", {}), "now") or row.at)],
        "trials": [row for row in trials if within(_when(row.body, "now") or row.at)],
        "moves": [row for row in ledger.history(model) if within(row.at)],
    }


def _when(body: Mapping[str, Any], key: str) -> str | None:
    found = body.get(key)
    return found if isinstance(found, str) else None
