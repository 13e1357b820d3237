"""Figures of the claims, kept one beside the other in bench/results/monitoring.json."""

from __future__ import annotations

import json
from typing import Any

from bench.serving.machine import RESULTS, facts

FILE = RESULTS / "monitoring.json"
Rows = list[dict[str, Any]]


def keep(claim: str, rows: Rows) -> None:
    """Keep the figures of one claim, beside those of the others."""
    known = json.loads(FILE.read_text()) if FILE.is_file() else {}
    if claim == "m1":  # hours of work: a thinner run does not replace a fuller one
        fullest: dict[tuple[str, int], dict[str, Any]] = {}
        for row in [*known.get("m1", {"rows": []})["rows"], *rows]:
            case = (row["stream"], row["n"])
            if case not in fullest or row["replicates"] >= fullest[case]["replicates"]:
                fullest[case] = row
        rows = list(fullest.values())
    known[claim] = {"rows": rows, "machine": facts()}
    text = json.dumps(known, indent=1, sort_keys=True).replace("Infinity", "null")
    FILE.write_text(text + "\n")
