"""Error rates and power of the promotion tests, by simulation: `python -m bench.promotion.simulate [--runs N]`.

Units arrive one by one with a binary loss; every 200 users somebody looks. Strata are blocks of 1,000 users within
a stage of the ramp, as days are in production. Prints one row per scenario of docs, A1 to A5.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.gates.gates import PairedSample, non_inferiority_gate
from retrain.trials.sequential import Stratum, log_e, log_harm_e, log_srm_e, paired_path, rho, score

LOOK = 200
BLOCK = 1_000
ALPHA = 0.05
MARGIN = 0.01


def _base(kind: str, users: int) -> NDArray[np.float64]:
    t = np.arange(users)
    if kind == "trend":
        return 0.20 + 0.10 * t / users
    if kind == "sine":
        return 0.25 + 0.05 * np.sin(2 * np.pi * t / 2_400)
    return np.full(users, 0.20)


def trials(*, runs: int, users: int, gain: float, base: str, ramped: bool, seed: int) -> dict[str, float]:
    """Share of trials in which each test fired at any look; `gain` > 0 lowers the candidate's loss."""
    generator = np.random.default_rng(seed)
    t = np.arange(users)
    weight = np.select([t < users * 0.2, t < users * 0.5], [0.05, 0.25], 0.5) if ramped else np.full(users, 0.5)
    stage = (weight * 100).astype(int)
    fired = {"superiority": 0, "non_inferiority": 0, "harm": 0, "naive": 0}
    r = rho(0.4, 6_000, 0.5, ALPHA)
    for _ in range(runs):
        treated = generator.random(users) < weight
        loss = (generator.random(users) < _base(base, users) - gain * treated).astype(float)
        for name in _fired(treated, loss, t // BLOCK + 1_000 * stage, r):
            fired[name] += 1
    return {name: count / runs for name, count in fired.items()}


def _fired(treated: NDArray[np.bool_], loss: NDArray[np.float64], key: NDArray[np.int64], r: float) -> set[str]:
    sums: dict[int, NDArray[np.float64]] = {}
    found: set[str] = set()
    for start in range(0, len(loss), LOOK):
        part, arm = loss[start : start + LOOK], treated[start : start + LOOK]
        for k in np.unique(key[start : start + LOOK]):
            here = key[start : start + LOOK] == k
            t, c = part[arm & here], part[~arm & here]
            sums[int(k)] = sums.get(int(k), np.zeros(4)) + np.array([t.size, t.sum(), c.size, c.sum()])
        strata = [Stratum(str(k), int(v[0]), v[1], v[1], int(v[2]), v[3], v[3]) for k, v in sums.items()]
        now = score(strata)
        if min(now.n_t, now.n_c) < 300:
            continue
        found |= {"superiority"} if log_e(now, 0.0, r) >= -math.log(ALPHA) else set()
        found |= {"non_inferiority"} if log_e(now, -MARGIN, r) >= -math.log(ALPHA) else set()
        found |= {"harm"} if log_harm_e(now, r) >= math.log(100) else set()
        found |= {"naive"} if _pooled_z(np.sum(list(sums.values()), axis=0)) > 1.645 else set()
    return found


def _pooled_z(total: NDArray[np.float64]) -> float:
    """What many dashboards do: one two-proportion z-test over everything so far, read at every look."""
    n_t, s_t, n_c, s_c = total
    p = (s_t + s_c) / (n_t + n_c)
    return float((s_c / n_c - s_t / n_t) / math.sqrt(p * (1 - p) * (1 / n_t + 1 / n_c)))


def srm(*, runs: int, users: int, looks: int, share: float, seed: int) -> dict[str, float]:
    """Share of trials whose sample-ratio e-value ever reached 100 (pause) and 1,000 (stop)."""
    generator = np.random.default_rng(seed)
    pause = stop = 0
    step = users // looks
    for _ in range(runs):
        treated = np.cumsum(generator.binomial(step, share, looks))
        most = max(log_srm_e((step * (i + 1) - k, k), (0.5, 0.5)) for i, k in enumerate(treated.tolist()))
        pause, stop = pause + (most >= math.log(100)), stop + (most >= math.log(1_000))
    return {"pause": pause / runs, "stop": stop / runs}


def paired(*, runs: int, labels: int, disagree: float, gain: float, seed: int) -> dict[str, float]:
    """Paired shadow on binary losses: how often superiority is ever shown, and after how many labels."""
    generator = np.random.default_rng(seed)
    p = np.array([(disagree + gain) / 2, (disagree - gain) / 2, 1 - disagree])
    d = generator.choice([1.0, -1.0, 0.0], size=(runs, labels), p=p)
    first = [_first_win(row) for row in d]
    won = [f for f in first if f is not None]
    return {"won": len(won) / runs, "median_labels": float(np.median([labels + 1 if f is None else f for f in first]))}


def _first_win(d: NDArray[np.float64]) -> int | None:
    wealth = paired_path(d, 0.0)
    hit = np.flatnonzero(wealth >= -math.log(ALPHA))
    return int(hit[0]) + 1 if hit.size else None


def gate(*, runs: int, rows: int, gain: float, reason: str, seed: int, k: int = 1) -> float:
    """Share of runs in which the best of `k` candidates, all of the same true gain, passes the gate."""
    generator = np.random.default_rng(seed)
    passes = 0
    for _ in range(runs):
        champion = (generator.random(rows) < 0.2).astype(float)
        candidates = []
        for _ in range(k):
            flip = generator.random(rows) < 0.05
            fresh = (generator.random(rows) < 0.2 - gain / 0.05).astype(float)
            candidates.append(np.where(flip, fresh, champion))
        best = min(candidates, key=lambda c: float(c.mean()))
        blocks = np.arange(rows) // max(rows // 14, 1)
        sample = PairedSample.of(champion, best, blocks)
        found = non_inferiority_gate(sample, margin=MARGIN, alpha=ALPHA, k=k, reason=reason, min_rows=30)
        passes += found.verdict == "pass"
    return passes / runs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    rows: list[tuple[str, dict[str, Any]]] = []
    for base in ("constant", "trend", "sine"):
        for ramped in (False, True):
            name = f"{base}, {'ramped 5/25/50 %' if ramped else 'fixed 50 %'}"
            common = {"runs": runs, "users": 24_000, "base": base, "ramped": ramped}
            rows.append((f"A1 equal, {name}", trials(gain=0.0, seed=1, **common)))
            rows.append((f"A1 at the margin, {name}", trials(gain=-0.01, seed=2, **common)))
    fixed = {"runs": runs, "users": 24_000, "base": "constant", "ramped": False}
    rows.append(("A2 +2 pp", trials(gain=0.02, seed=3, **fixed)))
    rows.append(("A3 -5 pp", trials(gain=-0.05, seed=4, **fixed)))
    rows.append(("A4 paired, null", paired(runs=runs, labels=5_000, disagree=0.1, gain=0.0, seed=5)))
    rows.append(("A4 paired, +2 pp", paired(runs=runs, labels=5_000, disagree=0.1, gain=0.02, seed=6)))
    rows.append(("A5 split 50/50", srm(runs=runs, users=20_000, looks=200, share=0.5, seed=7)))
    rows.append(("A5 split 48/52", srm(runs=runs, users=20_000, looks=200, share=0.48, seed=8)))
    for name, gain in (("equal", 0.0), ("-2 pp", -0.02)):
        for reason in ("performance", "freshness"):
            passes = gate(runs=runs, rows=2_000, gain=gain, reason=reason, seed=9)
            rows.append((f"A8 gate, {name}, reason {reason}", {"passes": passes}))
    for name, found in rows:
        print(f"{name:<44}" + "  ".join(f"{key} {value:.4f}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
