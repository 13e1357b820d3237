"""What a report on a model's performance says, section by section: pure, from counts and rows to text and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from monitoring.drift.data_quality import check_column
from monitoring.drift.drift import compare
from monitoring.reading.period import Period
from monitoring.reports.page import Link, Page, Section, Table
from monitoring.watching import estimated
from monitoring.watching.diagnosis import diagnose
from monitoring.watching.findings import KINDS, Kind, State
from registry.bundle import Bundle
from registry.card import interval
from registry.reference import NULL, UNSEEN

if TYPE_CHECKING:
    from retrain.reports.report_spec import Spec

__all__ = ["page"]

COLUMNS: Final = 50
"""Columns that are shown, those that moved most first."""
FINDINGS: Final = 100
DAYS: Final = 400
SLICES: Final = 40


def page(spec: Spec, bundle: Bundle, period: Period, quality: Mapping[str, Any], told: Mapping[str, Any]) -> Page:
    """The whole report.

    Args:
        spec: model, version and bounds.
        bundle: the champion's.
        period: what the event lake says.
        quality: metrics of the labelled sample.
        told: `snapshot` of the monitor, and `findings`, `reports`, `runs`, `trials`, `moves` of the ledger.
    """
    bounds = f"{_time(spec.low, 'the first')} to {_time(spec.high, 'the last')}"
    head = (
        f"Events of {bounds} (event time, UTC), judged by version {spec.version}, the champion when this was made.",
        f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC from the event lake and the ledger.",
    )
    return Page(
        f"{spec.model}: how it did",
        head,
        (
            _state(told["snapshot"]),
            _traffic(period),
            _quality(bundle, period, quality, told["snapshot"]),
            *([_slices(quality["slices"])] if quality.get("slices") else []),
            _inputs(bundle, period),
            _findings(told["findings"], told["reports"], linked=not spec.out),
            _changes(told),
        ),
    )


def _state(snapshot: Mapping[str, Any]) -> Section:
    if not snapshot:
        return Section("State now", ("The worker has no state of this champion yet.",))
    why = snapshot["reasons"]
    rows = [(kind.replace("_", " "), snapshot["states"][kind], why.get(kind, "")) for kind in KINDS]
    action = snapshot["diagnosis"]
    return Section(
        "State now",
        (f"{action['action'].replace('_', ' ')}: {action['reason']}.",),
        (Table(("kind", "state", "why"), rows),),
    )


def _traffic(period: Period) -> Section:
    quantiles = ("p50", 0.5), ("p95", 0.95), ("p99", 0.99)
    latency = ", ".join(f"{name} {_number(period.latency(q))} ms" for name, q in quantiles)
    arms = [(v, arm, n, _share(n, period.rows)) for (v, arm), n in sorted(period.arms.items())]
    days = list(period.days.items())[-DAYS:]
    by_day = [
        (name, day.rows, _number(period.latency(0.5, name)), _number(period.latency(0.95, name)), day.labels,
         _number(day.loss / day.labels) if day.labels else "-")
        for name, day in days
    ]  # fmt: skip
    return Section(
        "Traffic",
        (
            f"{period.rows} rows answered; latency of a row's request inside the process: {latency}.",
            "Requests that were refused or failed leave no event: their rate is in Prometheus "
            "(perene_requests_total by code).",
        ),
        (
            Table(("version", "arm", "rows", "share"), arms),
            Table(("day", "rows", "p50 ms", "p95 ms", "labels", "mean loss"), by_day),
        ),
    )


def _quality(bundle: Bundle, period: Period, quality: Mapping[str, Any], snapshot: Mapping[str, Any]) -> Section:
    known, mine = bundle.reference["quality"], sum(period.counts.get("_score", ()))
    text = []
    if period.loss is None:
        text.append("No labels of this span's answers are known: nothing is realised yet.")
    else:
        text.append(
            f"Realised, from labels: mean loss {_band(period.loss)}, 95 % interval, of {period.losses} labels "
            f"({_share(period.losses, mine)} of the champion's answers); at acceptance {_number(known['loss'])}."
        )
    curve = bundle.reference.get("estimate")
    found = estimated.estimate(curve, {n: c.tolist() for n, c in period.counts.items()}) if curve and mine else None
    if found is not None:
        band = (found.loss, found.lower, found.upper)
        text.append(f"Estimated, without labels: mean loss {_band(band)}, 99 % band. An estimate is never proof.")
    maturity = snapshot.get("maturity", {})
    if maturity.get("p95_s") is not None:
        text.append(
            f"Half of the labels come within {_hours(maturity['p50_s'])}, 95 % within {_hours(maturity['p95_s'])}: "
            "what is younger than that is not judged in full."
        )
    before = bundle.reference.get("baseline", {}).get("metrics", {})
    rows = [
        (name, interval(figure), interval(before[name]) if name in before else "-",
         _number(found.metrics.get(name)) if found is not None else "-")
        for name, figure in quality.get("metrics", {}).items()
    ]  # fmt: skip
    own = [(n, v if isinstance(v, str) else _number(v), "-", "-") for n, v in quality.get("own", {}).items()]
    head = ("metric", "realised (95 % interval)", "at acceptance", "estimated")
    return Section("Quality", text, (Table(head, [*rows, *own]),) if rows or own else ())


def _slices(entries: Sequence[Mapping[str, Any]]) -> Section:
    names = list(dict.fromkeys(name for entry in entries for name in entry["metrics"]))[:3]
    rows = [
        (entry["column"], entry["value"], entry["rows"], *(interval(entry["metrics"][n]) for n in names),
         "" if entry["sufficient"] else "few rows")
        for entry in entries[:SLICES]
    ]  # fmt: skip
    return Section("Quality by slice", (), (Table(("column", "value", "labels", *names, ""), rows),))


def _inputs(bundle: Bundle, period: Period) -> Section:
    """Every stored column against the reference, over the whole span."""
    rows = []
    for name, spec in bundle.reference["columns"].items():
        counts = period.counts[name]
        total = max(int(counts.sum()), 1)
        result = compare(spec, counts)
        unseen = _share(int(counts[UNSEEN]), total) if spec["kind"] == "category" else "-"
        faults = [c.fault.replace("_", " ") for c in check_column(name, spec, counts) if c.large and c.p < 0.001]
        before = _share(int(spec["counts"][NULL]), max(sum(spec["counts"]), 1))
        cells = (name, f"{result.psi:.3f}", _share(int(counts[NULL]), total), before, unseen, ", ".join(faults) or "-")
        rows.append((result.psi, cells))
    rows.sort(key=lambda row: (-row[0], str(row[1][0])))
    hidden = [f"{c.name} ({c.policy})" for c in bundle.contract.columns if c.policy != "store"]
    text = ["Corrected PSI of the whole span against the reference: under 0.1 low, under 0.25 medium, else high."]
    if len(rows) > COLUMNS:
        text.append(f"{len(rows) - COLUMNS} further columns, which moved less, are not shown.")
    if hidden:
        text.append(f"Not kept, so not watched: {', '.join(hidden[:COLUMNS])}.")
    head = ("column", "PSI", "null", "null in reference", "unseen", "faults")
    return Section("Inputs: drift and data quality", text, (Table(head, [cells for _, cells in rows[:COLUMNS]]),))


def _findings(
    findings: Sequence[Mapping[str, Any]], reports: Mapping[Any, Mapping[str, Any]], *, linked: bool
) -> Section:
    """With the action that the states at that moment ask for; states are those of all findings before."""
    states: dict[Kind, State] = dict.fromkeys(KINDS, "insufficient")
    rows = []
    for finding in findings:
        states[finding["kind"]] = finding["state"]
        if not finding["within"]:
            continue
        drift: State = "confirmed" if "confirmed" in (states["feature_drift"], states["score_drift"]) else "ok"
        action = diagnose(
            data_quality=states["data_quality"],
            drift=drift,
            estimated=states["estimated"],
            performance=states["performance"],
        )
        told = _told_by(reports.get(finding["id"]), linked=linked)
        rows.append(
            (finding["at"][:16], finding["kind"].replace("_", " "), finding["state"], finding["severity"],
             _cause(finding["detail"]), action.action.replace("_", " "), told)
        )  # fmt: skip
    if not rows:
        return Section("Findings", ("None in this span.",))
    more = (f"The newest {FINDINGS} of {len(rows)}.",) if len(rows) > FINDINGS else ()
    head = ("at", "kind", "state", "severity", "cause", "action", "Evidently")
    return Section("Findings", more, (Table(head, rows[-FINDINGS:]),))


def _cause(detail: Mapping[str, Any]) -> str:
    if detail.get("known_event"):
        return f"known event: {detail['known_event']}"
    parts = [f"{entry['column']} (PSI {entry['psi']:.2f})" for entry in detail.get("columns", [])[:3]]
    parts += [f"{entry['column']}: {entry['fault']} {entry['share']:.0%}" for entry in detail.get("checks", [])[:3]]
    if not parts and detail.get("loss") is not None:
        parts = [f"mean loss {_number(detail['loss'])}, at acceptance {_number(detail.get('reference_loss'))}"]
    worst = detail.get("slice") or next(iter(detail.get("worst_slices") or []), None)
    if worst:
        parts.append(f"where {worst['column']} is {worst['value']}")
    return "; ".join(parts) or "-"


def _told_by(report: Mapping[str, Any] | None, *, linked: bool) -> str | Link:
    """Evidently's verdict on the columns, and where its report is."""
    if report is None or "evidently" not in report:
        return "-"
    names = report["evidently"]
    said = f"drift in {', '.join(names[:3])}{' …' if len(names) > 3 else ''}" if names else "no drift"
    answers = [entry["column"] for entry in report.get("moved_answers") or []][:3]
    moved = f"; answers were moved by {', '.join(answers)}" if answers else ""
    text = f"{said}{moved} (report {report['key']})"
    return Link(text, f"../{report['key']}/report.html") if linked else text


def _changes(told: Mapping[str, Any]) -> Section:
    runs = [
        (row.run_id, row.body.get("spec", {}).get("reason", "-"), row.status, row.step, row.body.get("version") or "-")
        for row in told["runs"]
    ]
    trials = [(row.experiment_id, row.state, row.stage, row.body.get("why", "-")) for row in told["trials"]]
    moves = [(row.at.strftime("%Y-%m-%d %H:%M"), row.champion, row.actor, row.reason) for row in told["moves"]]
    tables = [
        *([Table(("retraining", "reason", "status", "step", "version"), runs)] if runs else []),
        *([Table(("trial", "state", "stage", "why"), trials)] if trials else []),
        *([Table(("moved at", "champion", "by", "reason"), moves)] if moves else []),
    ]
    return Section("Retrainings, trials, promotions", () if tables else ("None in this span.",), tables)


def _band(band: tuple[float, float, float]) -> str:
    value, low, high = band
    return f"{value:.4g} ({low:.4g} to {high:.4g})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _hours(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.0f} h"


def _time(micros: int | None, otherwise: str) -> str:
    return otherwise if micros is None else f"{datetime.fromtimestamp(micros / 1e6, UTC):%Y-%m-%d %H:%M}"
