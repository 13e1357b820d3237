"""What a report on one finding says for itself: what was found, and rows that show it. Pure, from rows to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from monitoring.reading.examples import Example
from monitoring.reports.page import Page, Section, Table

__all__ = ["HTML", "MARKDOWN", "page"]

HTML: Final = "finding.html"
MARKDOWN: Final = "finding.md"


def page(model: str, body: Mapping[str, Any], examples: Sequence[Example]) -> Page:
    """The page of a finding.

    Args:
        model: name of the model.
        body: of the finding's row in the ledger.
        examples: rows of its window.
    """
    detail = body["detail"]
    kind = str(body["kind"]).replace("_", " ")
    window = detail.get("window") or {}
    head = (
        f"{kind}: {body['state']}, severity {body['severity']}, at {body['at']} (event time).",
        f"Flagged: {', '.join(map(str, detail.get('flagged', ()))) or '-'}.",
        *([f"Window: {window['start']} to {window['end']}, {window['rows']} rows."] if window else []),
    )
    causes = [
        (entry["column"], f"{entry['psi']:.3f}", entry.get("importance", "-"), entry.get("score_moved", "-"))
        for entry in detail.get("columns", ())
    ]
    faults = [
        (entry["column"], entry["fault"], f"{entry['share']:.2%}", f"{entry['expected']:.2%}")
        for entry in detail.get("checks", ())
    ]
    found = [
        *([Table(("column", "PSI", "importance", "moved the score by"), causes)] if causes else []),
        *([Table(("column", "fault", "share", "in the reference"), faults)] if faults else []),
    ]
    return Page(f"{model}: {kind} {body['state']}", head, (Section("What was found", (), found), _examples(examples)))


def _examples(examples: Sequence[Example]) -> Section:
    if not examples:
        return Section("Example rows", ("None: the columns are not kept as they came, or no row is left.",))
    rows = [
        (one.id, one.at, one.column, one.cell, one.row.get(one.column),
         ", ".join(f"{name}={value}" for name, value in one.row.items() if name != one.column))
        for one in examples
    ]  # fmt: skip
    text = "Rows of the window in the cell of each flagged column that has grown most, the newest first."
    return Section(
        "Example rows", (text,), (Table(("prediction", "at", "column", "cell", "value", "rest of the row"), rows),)
    )
