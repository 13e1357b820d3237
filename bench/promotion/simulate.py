"""Error rates and power of the promotion tests on trials whose truth is known, and the usual rules beside them.

    python -m bench.promotion.simulate                       # thin: 1,000 trials of each, under a minute
    python -m bench.promotion.simulate --full --save         # 10,000 of each, as the bars ask for; some minutes
    python -m bench.promotion.simulate --only a1 a4 --full --save

A7 to A9 are about the gates: `python -m bench.promotion.gates`. Saved figures are kept claim by claim in
bench/results/promotion.json and shown by `python -m bench.promotion.table`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from bench.figures import Rows
from bench.promotion import claims
from bench.promotion.keep import FILE, keep

__all__ = ["main"]

FULL, THIN = 10_000, 1_000
CLAIMS: dict[str, Callable[[int], Rows]] = {
    "a1": claims.a1,
    "a2": claims.a2,
    "a3": claims.a3,
    "a4": claims.a4,
    "a5": claims.a5,
    "a6": claims.a6,
    "a10": claims.a10,
    "guardrails": claims.guardrails,
    "hostile": claims.hostile,
    "bandits": claims.bandits,
    "looks": claims.looks,
    "cost": claims.cost,
}


def main() -> None:
    """Run the claims that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help=f"{FULL:,} trials instead of {THIN:,}")
    parser.add_argument("--runs", type=int, help="this many instead")
    parser.add_argument("--save", action="store_true", help=f"keep the figures in {FILE}")
    parser.add_argument("--only", nargs="+", choices=sorted(CLAIMS), default=list(CLAIMS))
    arguments = parser.parse_args()
    for claim in arguments.only:
        start = time.perf_counter()
        rows = CLAIMS[claim](arguments.runs or (FULL if arguments.full else THIN))
        print(f"{claim}: {time.perf_counter() - start:.0f} s", flush=True)
        for row in rows:
            print("  " + json.dumps(_short(row), default=float), flush=True)
        if arguments.save:
            keep(claim, rows)


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not isinstance(value, list) or len(value) < 10}


if __name__ == "__main__":
    main()
