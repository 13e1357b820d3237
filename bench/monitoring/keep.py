"""Where the figures of monitoring are kept."""

from __future__ import annotations

from typing import Any

from bench.figures import Rows, known
from bench.figures import keep as keep_in
from bench.serving.machine import RESULTS

FILE = RESULTS / "monitoring.json"


def keep(claim: str, rows: Rows) -> None:
    """Keep the figures of one claim, beside those of the others."""
    if claim == "m1":  # hours of work: a thinner run does not replace a fuller one
        fullest: dict[tuple[str, int], Any] = {}
        for row in [*known(FILE).get("m1", {"rows": []})["rows"], *rows]:
            case = (row["stream"], row["n"])
            if case not in fullest or row["replicates"] >= fullest[case]["replicates"]:
                fullest[case] = row
        rows = list(fullest.values())
    keep_in(FILE, claim, rows)
