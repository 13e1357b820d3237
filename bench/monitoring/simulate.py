"""Simulate the detectors on streams whose truth is known: the claims of the design, and the usual rules beside them.

    python -m bench.monitoring.simulate                         # thin: a few minutes
    python -m bench.monitoring.simulate --full --save           # 200 replicates of 90 days; an hour of one core
    python -m bench.monitoring.simulate --only m2 m6 --full --save

Saved figures are kept claim by claim in bench/results/monitoring.json and shown by `python -m bench.monitoring.table`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from typing import Any

from bench.figures import Rows
from bench.monitoring import claims, streams, usual_rules
from bench.monitoring.keep import FILE, keep
from bench.monitoring.replayed import same_state

FULL, THIN = 200, 10
Save = Callable[[str, Rows], None]


def m1(replicates: int, save: Save, share: int = 1, only: str = "") -> Rows:
    """False episodes in 90 days of hourly windows without drift: at most one."""
    kinds = {
        "20 normals": (streams.normals(), {100: 1, 500: 1, 2000: 1}),
        "20 heavy tails, 200-level categories, zero-inflated": (streams.awkward(), {100: 1, 500: 1, 2000: 1}),
        "20 AR(1), rho = .3": (streams.autoregressive(), {100: 1, 500: share}),
        "200 normals": (streams.normals(200), {100: share, 500: share, 2000: share}),
        "20 correlated (r = .49)": (streams.correlated(), {100: 1, 500: share}),
    }
    rows = []
    for title, (make, sizes) in kinds.items():
        if only not in title:
            continue
        for n, part in sizes.items():
            count = max(replicates // part, 2)
            rows.append(
                {"stream": title, "n": n, "replicates": count, **claims.false_alarms(make, n=n, replicates=count)}
            )
            _say("m1", rows[-1])
            save("m1", rows)
    return rows


def m2(replicates: int, save: Save) -> Rows:
    """Windows until a shift of one column in twenty is confirmed."""
    rows = []
    for shift, n, m in ((0.5, 100, 1000), (0.2, 500, 1000), (0.2, 500, 2000), (0.2, 500, 5000)):
        found = claims.delays(streams.normals(shift=shift, change=64), n=n, m=m, replicates=replicates)
        rows.append({"shift": shift, "n": n, "m": m, "replicates": replicates, **claims.spread(found)})
        _say("m2", rows[-1])
    save("m2", rows)
    return rows


def m3(replicates: int, save: Save) -> Rows:
    """False episodes in 90 days with a daily wave of 0.4 sd."""
    rows = []
    for title, seasonal in (("season-matched reference", True), ("one reference for all hours", False)):
        found = claims.false_alarms(
            streams.daily(seasonal=seasonal), n=500, m=5000, replicates=replicates if seasonal else 2
        )
        rows.append({"stream": title, "n": 500, "replicates": replicates if seasonal else 2, **found})
        _say("m3", rows[-1])
    save("m3", rows)
    return rows


def m4(replicates: int, save: Save) -> Rows:
    """Windows until broken data is called broken."""
    kinds = {
        "nulls 0 to 5 %": streams.faulty(nulls=0.05, change=4),
        "missing column": streams.faulty(missing=True, change=4),
        "unseen category 2 %": streams.faulty(unseen=0.02, change=4),
    }
    rows = []
    for title, make in kinds.items():
        found = claims.broken_delays(make, n=500, replicates=replicates)
        rows.append({"fault": title, "n": 500, "replicates": replicates, **claims.spread(found)})
        _say("m4", rows[-1])
    save("m4", rows)
    return rows


def m5(replicates: int, save: Save) -> Rows:
    """Cost of a window."""
    rows = [claims.cost(20, 10_000), claims.cost(200, 500)]
    _say("m5", rows)
    save("m5", rows)
    return rows


def m6(replicates: int, save: Save) -> Rows:
    """The detector of realised quality: stable, better, and worse by 10 and 20 points."""
    rows = []
    for mean, labels in ((0.2, 20_000), (0.15, 20_000), (0.3, 5_000), (0.4, 5_000)):
        alarms = [claims.esr_alarm(mean, seed=seed, labels=labels) for seed in range(replicates)]
        late = [float(a) if a is not None else math.inf for a in alarms]
        rows.append({"loss": mean, "labels": labels, "replicates": replicates, **claims.spread(late)})
        _say("m6", rows[-1])
    save("m6", rows)
    return rows


def m9(replicates: int, save: Save) -> Rows:
    """Shuffled, duplicated and late labels, and restarts between windows: the same state, byte for byte."""
    count = max(replicates // 10, 2)
    rows = [{"replicates": count, "identical": sum(same_state(seed) for seed in range(count))}]
    _say("m9", rows)
    save("m9", rows)
    return rows


def evidently(replicates: int, save: Save) -> Rows:
    """Evidently's default rule on undrifted normals, and whether the rule here is Evidently's."""
    rows = []
    for n, m in ((100, 1000), (100, 2000), (200, 2000), (500, 2000), (2000, 2000)):
        windows = 2160 if replicates >= FULL else 200
        columns, any_column, episodes = usual_rules.evidently_alarms(n, m=m, windows=windows)
        scale = 2160 / windows
        rows.append({"n": n, "m": m, "columns": columns, "windows": any_column, "episodes": scale * episodes})
        _say("evidently", rows[-1])
    same, looked = (sum(x) for x in zip(*(usual_rules.checked(100, m=m, windows=2) for m in (1000, 2000)), strict=True))
    rows.append({"agree": same, "looked": looked})
    _say("evidently", rows[-1])
    save("evidently", rows)
    return rows


CLAIMS: dict[str, Callable[..., Rows]] = {
    "m2": m2,
    "m3": m3,
    "m4": m4,
    "m5": m5,
    "m6": m6,
    "m9": m9,
    "evidently": evidently,
    "m1": m1,
}


def _say(claim: str, row: Any) -> None:
    sys.stdout.write(f"{claim} {json.dumps(row, default=str)}\n")
    sys.stdout.flush()


def main() -> None:
    """Run the claims that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help=f"{FULL} replicates instead of {THIN}")
    parser.add_argument("--replicates", type=int, help="this many instead")
    parser.add_argument("--share", type=int, default=1, help="the dearest streams of M1 get this part of them")
    parser.add_argument("--stream", default="", help="of M1 only streams with this in their title")
    parser.add_argument("--save", action="store_true", help=f"keep the figures in {FILE}")
    parser.add_argument("--only", nargs="+", choices=sorted(CLAIMS), default=list(CLAIMS))
    arguments = parser.parse_args()
    save: Save = keep if arguments.save else lambda claim, rows: None
    for claim in arguments.only:
        more = {"share": arguments.share, "only": arguments.stream} if claim == "m1" else {}
        CLAIMS[claim](arguments.replicates or (FULL if arguments.full else THIN), save, **more)


if __name__ == "__main__":
    main()
