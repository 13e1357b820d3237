"""Figures of claims: kept as JSON, one claim beside the other, and written into a page between its marks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.serving.machine import facts

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
Rows = Sequence[Mapping[str, Any]]
Bar = tuple[str, str, Callable[[Rows], tuple[str, bool]]]
"""What is claimed, its bar, and what was seen of it in rows, with whether that holds."""


def known(file: Path) -> dict[str, Any]:
    """What is kept in `file` by now."""
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def keep(file: Path, claim: str, rows: Rows) -> None:
    """Keep the figures of one claim in `file`, beside those of the others."""
    kept = known(file) | {claim: {"rows": list(rows), "machine": facts()}}
    text = json.dumps(kept, indent=1, sort_keys=True, default=float).replace("Infinity", "null")
    file.write_text(text + "\n")


def claims(bars: Mapping[str, Bar], kept: Mapping[str, Any]) -> list[str]:
    """A table of every claim with its bar and its figure."""
    lines = ["| | claim | bar | seen | |", "|---|---|---|---|---|"]
    for name, (what, bar, told) in bars.items():
        if name not in kept:
            lines.append(f"| {name.upper()} | {what} | {bar} | not run | |")
            continue
        seen, held = told(kept[name]["rows"])
        lines.append(f"| {name.upper()} | {what} | {bar} | {seen} | {'holds' if held else '**missed**'} |")
    return lines


def write(page: Path, figures: str) -> None:
    """Write `figures` into `page` between its marks."""
    text = page.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}")
