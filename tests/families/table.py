"""The table of `docs/models.md`: made by a run of the families, read by a test."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.families.case import Case
from tests.families.serving import Row

PAGE: Final = Path(__file__).parents[2] / "docs" / "models.md"
_MARK: Final = re.compile(r"(<!-- made: families -->\n).*?(<!-- end -->)", re.DOTALL)
_HEAD: Final = (
    "| family | runtime | precision | verdict | max \\|Δ\\| | label flips | µs/row served | µs/row original | note |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def written(cases: Sequence[Case], rows: Mapping[str, Row]) -> None:
    """Write the table into the page."""
    lines = "".join(_line(case, rows[case.key]) for case in cases)
    text = PAGE.read_text()
    PAGE.write_text(_MARK.sub(lambda match: f"{match[1]}{_HEAD}{lines}{match[2]}", text))


def _line(case: Case, row: Row) -> str:
    title = case.title.replace("|", "\\|")
    if row.verdict == "refused":
        return f"| {title} | – | – | refused | – | – | – | – | {case.note} |\n"
    times = [f"{us:,.0f}" if us is not None else "–" for us in (row.served_us, row.original_us)]
    found = [row.runtime, row.precision, row.verdict, f"{row.difference:.1g}", str(row.flips), *times, case.note]
    return f"| {title} | {' | '.join(found)} |\n"


def titles() -> list[str]:
    """Families in the page, in order."""
    return [cells[0] for cells in _cells()]


def on_onnx() -> float:
    """Share of the page's families that are exact or close on ONNX."""
    cells = _cells()
    return sum(row[1] == "onnx" and row[3] in ("exact", "close") for row in cells) / len(cells)


def _cells() -> list[list[str]]:
    found = _MARK.search(PAGE.read_text())
    body = found[0].splitlines()[3:-1] if found else []
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in body]
