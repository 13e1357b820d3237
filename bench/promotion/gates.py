"""Error rates and power of the gates, by simulation: `python -m bench.promotion.gates [--runs N] [--write]`.

A holdout is 2,000 rows in 14 days, of which only the sums of each day matter to the gates. Differences of loss are
those of two versions that disagree on 5 % of the rows (0-1 loss), or normal with a spread of 0.15 (Brier loss); days
may share a shock. The bounds are computed for thousands of holdouts at once and compared with the gates' own verdicts.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from retrain.gates.gates import PairedSample, judge_pairs
from retrain.gates.latency import CALLS, ROUNDS, judge_latency
from retrain.gates.slices import TOGETHER
from retrain.gates.spending import spent

Floats = NDArray[np.float64]
Kind = Literal["0-1 loss", "0-1 loss, harm only", "Brier loss"]
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench/results/promotion_gates.json"
PAGE = ROOT / "docs/retraining-evidence.md"
MARKS = ("<!-- gates: begin -->", "<!-- gates: end -->")
DAYS = 14
ROWS = 2_000
CHURN = 0.05
ALPHA = 0.05
CHUNK = 500


@dataclass(frozen=True)
class Sums:
    """Of many holdouts, the rows, sum and sum of squares of the differences of each day [..., 14]."""

    rows: NDArray[np.int64]
    total: Floats
    squares: Floats

    @property
    def mean(self) -> Floats:
        """Mean difference of each holdout."""
        return np.asarray(self.total.sum(-1) / self.rows.sum(-1), np.float64)

    def errors(self) -> tuple[Floats, Floats]:
        """`PairedSample.errors` of each holdout."""
        n, mean = self.rows.sum(-1), self.mean
        plain = np.sqrt(np.maximum(self.squares.sum(-1) / n - mean**2, 0.0) / (n - 1))
        between = ((self.total - self.rows * mean[..., None]) ** 2).sum(-1) * DAYS / (DAYS - 1)
        return plain, np.sqrt(between) / n

    def lower(self, alpha: float | Floats) -> Floats:
        """The lower bound of the gate of non-inferiority."""
        plain, clustered = self.errors()
        days = clustered > plain
        dof = np.where(days, DAYS - 1, self.rows.sum(-1) - 1)
        return np.asarray(self.mean - stdtrit(dof, 1.0 - alpha) * np.where(days, clustered, plain), np.float64)

    def pick(self, best: NDArray[np.int64]) -> Sums:
        """The chosen one along the last axis of holdouts."""
        index = best[..., None, None]
        rows = np.take_along_axis(self.rows, index, -2)[..., 0, :]
        total, squares = (np.take_along_axis(a, index, -2)[..., 0, :] for a in (self.total, self.squares))
        return Sums(rows, total, squares)


def drawn(
    shape: tuple[int, ...], generator: np.random.Generator, *, rows: int = ROWS, gain: float = 0.0,
    kind: Kind = "0-1 loss", shock: Floats | float = 0.0,
) -> Sums:  # fmt: skip
    """Holdouts with a mean difference of `gain`; `shock` is added to every row of a day."""
    n = np.full((*shape, DAYS), rows // DAYS)
    n[..., : rows % DAYS] += 1
    if kind == "Brier loss":
        noise = generator.normal(size=n.shape) * np.sqrt(n) * 0.15
        total = noise + gain * n
        squares = generator.chisquare(np.maximum(n - 1, 1)) * 0.15**2 + total**2 / n
    else:
        churn = 0.0 if kind == "0-1 loss, harm only" and gain else CHURN / 2
        lost, won = churn + max(-gain, 0.0), churn + max(gain, 0.0)
        worse = generator.binomial(n, lost)
        better = generator.binomial(n - worse, won / (1.0 - lost))
        total, squares = (better - worse).astype(float), (better + worse).astype(float)
    moved = np.broadcast_to(shock, n.shape)
    return Sums(n, total + moved * n, squares + 2 * moved * total + n * moved**2)


def year(*, runs: int, retrains: int = 52, contenders: int = 3, shock: float, seed: int) -> dict[str, float]:
    """Share of years in which an equal model is called better at least once, by rule."""
    generator = np.random.default_rng(seed)
    level = np.array([spent(ALPHA, k) for k in range(1, retrains + 1)])
    found = {"points": 0, "5 % each time": 0, "alpha ledger": 0}
    for start in range(0, runs, CHUNK):
        shape = (min(CHUNK, runs - start), retrains, contenders)
        moved = generator.normal(0.0, shock, (*shape, DAYS)) if shock else 0.0
        sums = drawn(shape, generator, shock=moved)
        best = sums.pick(sums.mean.argmax(-1))
        found["points"] += int((best.mean >= 0).any(-1).sum())
        found["5 % each time"] += int((best.lower(ALPHA) > 0).any(-1).sum())
        passes = (best.lower(ALPHA / contenders) > 0) & (best.lower(level / contenders) > 0)
        found["alpha ledger"] += int(passes.any(-1).sum())
    return {name: count / runs for name, count in found.items()}


def improvement(*, runs: int, gain: float, claim: int, kind: Kind, seed: int, contenders: int = 3) -> float:
    """Share of true improvements that the k-th claim of a year shows."""
    sums = drawn((runs,), np.random.default_rng(seed), gain=gain, kind=kind)
    return float((sums.lower(spent(ALPHA, claim) / contenders) > 0).mean())


def non_inferior(*, runs: int, gain: float, seed: int, margin: float = 0.01) -> float:
    """Share of versions that are better by `gain` which pass non-inferiority."""
    return float((drawn((runs,), np.random.default_rng(seed), gain=gain).lower(ALPHA) > -margin).mean())


def by_points(*, runs: int, gain: float, seed: int, rows: int = 500) -> float:
    """Control: how often challenger >= champion on the same rows passes."""
    return float((drawn((runs,), np.random.default_rng(seed), rows=rows, gain=gain).mean >= 0).mean())


def slices(
    *, runs: int, kind: Kind, seed: int, harm: float = 0.0, number: int = 20, rows: int = 150,
    shock: float = 0.0, common: bool = True,
) -> float:  # fmt: skip
    """Share of holdouts that the gate blocks: of 20 slices of 500 rows one, of `rows`, is worse by `harm`."""
    generator = np.random.default_rng(seed)
    blocked = 0
    for start in range(0, runs, CHUNK):
        count = min(CHUNK, runs - start)
        moved = (
            generator.normal(0.0, shock, (count, 1 if common else number, DAYS)) if shock else np.zeros((1, 1, DAYS))
        )
        whole = drawn((count,), generator, kind=kind, shock=moved.mean(1))
        together = _apart(whole)
        equal = drawn((count, number - 1), generator, rows=500, kind=kind, shock=moved if common else moved[:, 1:])
        last = drawn((count, 1), generator, rows=rows, gain=-harm, kind=kind, shock=moved[:, :1])
        found = [_worse(part, ALPHA / number, together[:, None]) for part in ((last,) if harm else (equal, last))]
        blocked += int(np.concatenate(found, axis=1).any(1).sum())
    return blocked / runs


def _apart(sums: Sums) -> NDArray[np.bool_]:
    plain, clustered = sums.errors()
    return np.asarray(clustered > TOGETHER * plain)


def _worse(sums: Sums, alpha: float, together: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The rule of `retrain.gates.slices`."""
    plain, clustered = sums.errors()
    days = (together | _apart(sums)) & (clustered > plain)
    dof = np.where(days, DAYS - 1, sums.rows.sum(-1) - 1)
    return np.asarray(sums.mean + stdtrit(dof, 1.0 - alpha) * np.where(days, clustered, plain) < 0)


def latency(*, runs: int, slower: float, noise: float, seed: int) -> float:
    """Share of versions `slower` times as slow that pass, on a machine with heavy-tailed noise and slow spells."""
    generator = np.random.default_rng(seed)
    passed = 0
    for _ in range(runs):
        spell = np.exp(generator.normal(0.0, noise, (ROUNDS, 1)))  # a busy machine slows both sides of a round
        calls = np.exp(generator.normal(0.0, noise, (2, ROUNDS, CALLS))) * spell
        p99 = np.quantile(calls, 0.99, axis=-1)
        inputs = {
            "champion_p99_ms": p99[0].tolist(), "candidate_p99_ms": (p99[1] * slower).tolist(),
            "champion_bytes": 1, "candidate_bytes": 1, "ratio": 1.2, "free_ms": 0.0, "size_ratio": 2.0,
        }  # fmt: skip
        passed += judge_latency(inputs).verdict == "pass"
    return passed / runs


def agreement(*, runs: int, seed: int) -> float:
    """Largest difference between the lower bounds here and those of the gate itself."""
    sums = drawn((runs,), np.random.default_rng(seed), shock=np.random.default_rng(seed).normal(0, 0.01, (runs, DAYS)))
    ours = sums.lower(ALPHA / 3)
    worst = 0.0
    for n, s, q, low in zip(sums.rows.tolist(), sums.total.tolist(), sums.squares.tolist(), ours.tolist(), strict=True):
        sample = PairedSample(tuple(zip(n, s, q, strict=True)))
        asked = {"margin": 0.01, "alpha": ALPHA, "k": 3, "reason": "performance", "min_rows": 30}
        gate = judge_pairs({"blocks": [list(b) for b in sample.blocks], **asked})
        worst = max(worst, abs(float(gate.inputs["lower"]) - low))
    return worst


def results(runs: int) -> list[dict[str, Any]]:
    """Every figure with its bar; `bar` is text, `met` whether it holds."""
    rows: list[dict[str, Any]] = []

    def add(claim: str, name: str, value: float, bar: str, *, most: float = math.inf, least: float = -math.inf) -> None:
        met = bool(least <= value <= most) if bar else None
        rows.append({"id": claim, "case": name, "value": value, "bar": bar, "met": met})

    for shock in (0.0, 0.01):
        told = "days alike" if not shock else "days with shocks of 1 pp"
        for name, value in year(runs=runs, shock=shock, seed=1).items():
            bar = "≤ 6 %" if name == "alpha ledger" else ""
            add("A7", f"52 equal models a year, {told}: some called better by {name}", value, bar, most=0.06)
    for claim in (1, 4, 12, 52):
        found = improvement(runs=runs, gain=0.02, claim=claim, kind="0-1 loss", seed=2)
        add("A7", f"a true gain of 2 pp is shown by claim {claim} of the year", found, "")
    add(
        "A8",
        "-2 pp passes non-inferiority at 1 pp, 2,000 rows",
        non_inferior(runs=runs, gain=-0.02, seed=3),
        "≤ 1 %",
        most=0.01,
    )
    add(
        "A8",
        "control: an equal model passes 'challenger ≥ champion', 500 rows",
        by_points(runs=runs, gain=0.0, seed=4),
        "",
    )
    add("A8", "control: 1 pp worse passes it", by_points(runs=runs, gain=-0.01, seed=5), "")
    for kind in KINDS:
        found = slices(runs=runs, kind=kind, seed=6)
        add("A8", f"20 equal slices block, {kind}", found, "≤ 8 %", most=0.08)
        found = slices(runs=runs, kind=kind, harm=0.10, seed=7)
        add("A8", f"a slice of 150 rows worse by 10 pp is found, {kind}", found, "≥ 85 %", least=0.85)
    for common in (True, False):
        worst = max(
            slices(runs=runs, kind=kind, shock=s, common=common, seed=8) for kind in KINDS for s in (0.01, 0.02, 0.03)
        )
        told = "all slices" if common else "each slice by itself"
        bar = "≤ 8 %" if common else ""
        add("A8", f"20 equal slices block, days with shocks of 1 to 3 pp on {told}, worst", worst, bar, most=0.08)
    for noise in (0.1, 0.5):
        add(
            "latency",
            f"an identical model passes, noise {noise:g}",
            latency(runs=runs, slower=1.0, noise=noise, seed=9),
            "≥ 99.9 %",
            least=0.999,
        )
    add(
        "latency",
        "control: a model 1.5 times as slow passes, noise 0.1",
        latency(runs=max(runs // 10, 1), slower=1.5, noise=0.1, seed=10),
        "",
    )
    add(
        "rule",
        "largest difference between these bounds and the gate's",
        agreement(runs=200, seed=11),
        "≤ 1e-9",
        most=1e-9,
    )
    return rows


KINDS: tuple[Kind, ...] = ("Brier loss", "0-1 loss, harm only", "0-1 loss")


def section(found: Mapping[str, Any]) -> str:
    """The table of the page on evidence."""
    head = ["| id | case | found | bar |", "|---|---|---|---|"]
    lines = []
    for row in found["rows"]:
        value = f"{row['value']:.1e}" if row["id"] == "rule" else f"{row['value']:.2%}".replace("%", " %")
        mark = "" if row["met"] is None else " met" if row["met"] else " **missed**"
        lines.append(f"| {row['id']} | {row['case']} | {value} | {row['bar']}{mark} |")
    return "\n".join([f"{found['runs']:,} runs each, `python -m bench.promotion.gates --write`.", "", *head, *lines])


def write_section(found: Mapping[str, Any]) -> None:
    """Put the table between its marks in the page, if there is one."""
    if not PAGE.is_file():
        return
    text = PAGE.read_text(encoding="utf-8")
    if MARKS[0] not in text:
        text = f"{text.rstrip()}\n\n## The gates, by simulation\n\n{MARKS[0]}\n{MARKS[1]}\n"
    before, _, rest = text.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    PAGE.write_text(f"{before}{MARKS[0]}\n{section(found)}\n{MARKS[1]}{after}", encoding="utf-8")


def main() -> None:
    """Print the table, and keep it with --write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--write", action="store_true", help="keep the figures and put them into the page")
    asked = parser.parse_args()
    found: dict[str, Any] = {"runs": asked.runs, "rows": results(asked.runs)}
    print(section(found))
    if asked.write:
        kept = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.is_file() else []
        found["rows"] += [row for row in kept if row["id"] == "A9"]  # of bench.promotion.self_test
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        write_section(found)


if __name__ == "__main__":
    main()
