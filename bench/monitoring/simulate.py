"""Simulate the detectors on streams whose truth is known; print a Markdown table.

    python bench/monitoring/simulate.py                  # thin: a minute or so
    python bench/monitoring/simulate.py --replicates 200 --windows 2160 # M1 in full: 90 days of hourly windows, hours

Bars are those of the design: M1 false alarms, M2 and M4 delays, M5 cost, M6 the realised-quality detector.
The last row is a control: an uncorrected PSI > 0.1 rule on the stream of M1, which must fail.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monitoring.assess import SCORE, assess
from monitoring.drift import cells, psi
from monitoring.quality import ESR, null_level, update
from monitoring.settings import MonitoringSettings
from monitoring.verdict import Rule, Verdict, advance
from monitoring.windows import DEPTH, Window, merge
from registry.contract import Column, Contract, Output
from registry.reference import bin_counts, build_reference

Columns = dict[str, npt.NDArray[Any]]
Draw = Callable[[np.random.Generator, int], Columns]
HOURS_90_DAYS = 2160


@dataclass(frozen=True)
class Episodes:
    """Windows of one replicate: where drift became confirmed, data became broken, and all where the control alarmed."""

    drift: list[int]
    broken: list[int]
    control: list[int]


def normal(features: int = 20, shift: float = 0.0) -> Draw:
    """Independent normals; the first is shifted by `shift` standard deviations."""

    def draw(rng: np.random.Generator, n: int) -> Columns:
        values = rng.standard_normal((features, n))
        values[0] += shift
        return {f"x{i}": values[i] for i in range(features)}

    return draw


def awkward(features: int = 20) -> Draw:
    """Heavy tails, 200 equal categories, zero-inflated and correlated columns in turn."""

    def draw(rng: np.random.Generator, n: int) -> Columns:
        common = rng.standard_normal(n)
        made: list[npt.NDArray[Any]] = []
        for i in range(features):
            if i % 4 == 0:
                made.append(rng.standard_t(2, n))
            elif i % 4 == 1:
                made.append(np.array([f"c{k}" for k in rng.integers(0, 200, n)], dtype=object))
            elif i % 4 == 2:
                made.append(np.where(rng.random(n) < 0.9, 0.0, rng.exponential(1.0, n)))
            else:
                made.append(0.7 * common + 0.7 * rng.standard_normal(n))
        return {f"x{i}": column for i, column in enumerate(made)}

    return draw


def faulty(nulls: float = 0.0, unseen: float = 0.0, *, missing: bool = False) -> Draw:
    """Twenty columns, of which one number goes null, or one category goes unseen, at the given shares."""

    def draw(rng: np.random.Generator, n: int) -> Columns:
        columns = normal(19)(rng, n)
        columns["x0"][(rng.random(n) < nulls) | missing] = np.nan
        kind = np.array([f"c{k}" for k in rng.integers(0, 8, n)], dtype=object)
        kind[rng.random(n) < unseen] = "new"
        return {**columns, "kind": kind}

    return draw


def reference_of(columns: Columns) -> dict[str, Any]:
    """The reference of drawn columns, with a constant score."""
    dtypes = {name: "string" if values.dtype == object else "float" for name, values in columns.items()}
    contract = Contract(
        "sim",
        tuple(Column(name, dtype) for name, dtype in dtypes.items()),  # type: ignore[arg-type]
        Output("regression"),
    )
    rows = len(next(iter(columns.values())))
    return build_reference(contract, columns, np.zeros(rows), np.zeros(rows), 1.0, {"mae": 0.0})


def run(before: Draw, after: Draw, *, seed: int, n: int, windows: int, m: int = 1000, change: int = 0) -> Episodes:
    """One replicate: `change` windows of `before`, then `after` up to `windows` in all."""
    rng = np.random.default_rng(seed)
    reference = reference_of(before(rng, m))
    specs = reference["columns"]
    settings = MonitoringSettings(min_rows=min(n, 100))
    rules = Rule("confirmed", 2, 3, 3), Rule("broken", 2, 3, 3)
    drift, data = Verdict(), Verdict()
    closed: list[Window] = []
    seen = Episodes([], [], [])
    for index in range(windows):
        columns = (after if index >= change else before)(rng, n)
        counts = {name: bin_counts(spec, columns[name]).tolist() for name, spec in specs.items()}
        closed = [*closed, Window(float(index), float(index), n, counts)][-DEPTH:]
        found = assess(specs, closed, settings, alarmed=drift.state == "confirmed")
        drift, was = advance(drift, found.features, rules[0]), drift
        data, held = advance(data, found.data, rules[1]), data
        if drift.state == "confirmed" != was.state:
            seen.drift.append(index)
        if data.state == "broken" != held.state:
            seen.broken.append(index)
        if _plain_psi(specs, counts):
            seen.control.append(index)
    return seen


def _plain_psi(specs: dict[str, Any], counts: dict[str, list[int]]) -> bool:
    """The usual rule: any column's PSI, noise and all, over 0.1."""
    return any(
        psi(cells(spec, counts[name]).astype(float), cells(spec, spec["counts"]).astype(float)) > 0.1
        for name, spec in specs.items()
        if name != SCORE
    )


def delays(before: Draw, after: Draw, *, n: int, replicates: int, m: int = 1000, broken: bool = False) -> list[float]:
    """Windows from the change to the alarm, after 16 undisturbed windows; infinite if not within 12."""
    found = []
    for seed in range(replicates):
        seen = run(before, after, seed=seed, n=n, windows=28, m=m, change=16)
        late = [index - 15 for index in (seen.broken if broken else seen.drift) if index >= 16]
        found.append(float(late[0]) if late else float("inf"))
    return found


def esr_alarm(mean: float, *, seed: int, labels: int, base: float = 0.2, reference: int = 2000) -> int | None:
    """Label at which e-SR alarms on Bernoulli losses of mean `mean`; None when it does not."""
    rng = np.random.default_rng(seed)
    old = (rng.random(reference) < base).astype(float)
    quality = {"n": reference, "loss": old.mean(), "loss_sd": old.std(ddof=1)}
    level = null_level(quality, 0.02, 0.10)
    assert level is not None
    detector = ESR(level)
    for index, loss in enumerate((rng.random(labels) < mean).astype(float).tolist()):
        update(detector, loss, float(index))
        if detector.evalue >= 10_000:
            return index + 1
    return None


def table(replicates: int, windows: int) -> Iterator[str]:
    """Rows of the Markdown table."""
    yield "| id | stream | figure | bar |"
    yield "|---|---|---|---|"
    scale = HOURS_90_DAYS / (replicates * windows)
    for label, draw in (("20 normals", normal()), ("20 awkward columns", awkward())):
        for n in (100, 500):
            runs = [run(draw, draw, seed=seed, n=n, windows=windows) for seed in range(replicates)]
            drift, broken = sum(len(r.drift) for r in runs), sum(len(r.broken) for r in runs)
            control = sum(len(r.control) for r in runs) / (replicates * windows)
            size = f"{label}, n = {n}, {replicates} x {windows} windows"
            yield f"| M1 | {size} | drift {drift * scale:.2f}, broken {broken * scale:.2f} a 90 days | <= 1 |"
            yield f"| control | the same, PSI > 0.1 | alarms in {control:.0%} of windows | must fail |"
    small, large = "median <= 3, p95 <= 6", "median <= 4, p95 <= 8"
    for shift, n, m, bar in ((0.5, 100, 1000, small), (0.2, 500, 1000, large), (0.2, 500, 2000, large)):
        found = delays(normal(), normal(shift=shift), n=n, m=m, replicates=max(replicates, 10))
        yield f"| M2 | +{shift} sd in 1 of 20, n = {n}, m = {m} | {_spread(found)} windows | {bar} |"
    for label, fault, limit in (
        ("nulls 0 to 5 %", faulty(nulls=0.05), 2),
        ("missing column", faulty(missing=True), 1),
        ("unseen category 2 %", faulty(unseen=0.02), 2),
    ):
        found = delays(faulty(), fault, n=500, replicates=max(replicates, 10), broken=True)
        yield f"| M4 | {label}, n = 500 | {_spread(found)} windows | median <= {limit} |"
    yield from _cost()
    stable = [esr_alarm(0.2, seed=seed, labels=20_000) for seed in range(max(replicates, 10))]
    share = sum(a is not None for a in stable) / len(stable)
    yield f"| M6 | e-SR, 20,000 stable labels | {share:.0%} alarm | <= 10 % |"
    for rise, limit in ((0.10, 400), (0.20, 110)):
        alarms = [esr_alarm(0.2 + rise, seed=seed, labels=5000) for seed in range(max(replicates, 10))]
        late = [float(a) if a is not None else float("inf") for a in alarms]
        yield f"| M6 | e-SR, +{rise:.0%} loss | {_spread(late)} labels | median <= {limit} |"


def _cost() -> Iterator[str]:
    rng = np.random.default_rng(0)
    specs = reference_of(awkward()(rng, 1000))["columns"]
    columns = awkward()(rng, 10_000)
    started = time.perf_counter()
    counts = {name: bin_counts(spec, columns[name]).tolist() for name, spec in specs.items()}
    window = Window(0.0, 0.0, 10_000, counts)
    assess(specs, [window], MonitoringSettings(), alarmed=False)
    spent = (time.perf_counter() - started) * 1000
    halves = [
        Window(0.0, 0.0, 5000, {n: bin_counts(s, columns[n][part]).tolist() for n, s in specs.items()})
        for part in (slice(0, 5000), slice(5000, None))
    ]
    same = "equal" if merge(halves) == window else "different"
    yield f"| M5 | 20 columns x 10,000 rows, count and judge | {spent:.0f} ms; merge {same} | <= 20 ms; equal |"


def _spread(found: list[float]) -> str:
    middle, late = np.quantile(found, [0.5, 0.95], method="higher")
    return f"median {middle:g}, p95 {late:g}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=4)
    parser.add_argument("--windows", type=int, default=200)
    arguments = parser.parse_args()
    for line in table(arguments.replicates, arguments.windows):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
