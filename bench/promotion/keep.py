"""Figures of the claims, kept one beside the other in bench/results/promotion.json."""

from __future__ import annotations

import json
from typing import Any

from bench.serving.machine import RESULTS, facts

FILE = RESULTS / "promotion.json"
Rows = list[dict[str, Any]]


def keep(claim: str, rows: Rows) -> None:
    """Keep the figures of one claim, beside those of the others."""
    known = json.loads(FILE.read_text()) if FILE.is_file() else {}
    known[claim] = {"rows": rows, "machine": facts()}
    text = json.dumps(known, indent=1, sort_keys=True, default=float).replace("Infinity", "null")
    FILE.write_text(text + "\n")
