"""Where the figures of trials are kept."""

from __future__ import annotations

from bench.figures import Rows
from bench.figures import keep as keep_in
from bench.serving.machine import RESULTS

FILE = RESULTS / "promotion.json"


def keep(claim: str, rows: Rows) -> None:
    """Keep the figures of one claim, beside those of the others."""
    keep_in(FILE, claim, rows)
