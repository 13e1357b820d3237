"""Streams whose truth is known, as counts per window: what the monitor keeps of rows, drawn directly where it can be.

Independent rows of one distribution fill a window's bins by a multinomial law, so 90 days of hourly windows need no
rows. Rows that depend on each other (AR(1) in time, correlated columns) are drawn one by one and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from registry.contract import Column, Contract, Output
from registry.reference import ABOVE, BELOW, FIRST_NUMBER, bin_counts, build_reference

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Stream:
    """Reference columns and, by column, counts [T, bins] of T windows of n rows."""

    specs: dict[str, dict[str, Any]]
    counts: dict[str, Ints]
    n: int


Make = Callable[[np.random.Generator, int, int, int], Stream]
"""(generator, windows, rows per window, rows of the reference) -> the stream of one replicate."""


def reference_of(columns: Mapping[str, npt.NDArray[Any]], at: Any = None) -> dict[str, Any]:
    """The reference of drawn columns, with a constant score."""
    dtypes = {name: "string" if values.dtype == object else "float" for name, values in columns.items()}
    contract = Contract(
        "sim",
        tuple(Column(name, dtype) for name, dtype in dtypes.items()),  # type: ignore[arg-type]
        Output("regression"),
    )
    rows = len(next(iter(columns.values())))
    return build_reference(contract, columns, np.zeros(rows), np.zeros(rows), 1.0, {"mae": 0.0}, at=at)


def shares(spec: Mapping[str, Any], cdf: Callable[[Floats], Floats]) -> Floats:
    """Probability of each bin of a number when its distribution function is `cdf`, without atoms."""
    inner = np.asarray([spec["minimum"], *spec["edges"], spec["maximum"]])
    at = cdf(inner)
    found = np.concatenate(([0.0, 0.0, at[0], 1.0 - at[-1]], np.diff(at)))
    return np.maximum(found, 0.0)


def normals(features: int = 20, *, shift: float = 0.0, change: int = 0) -> Make:
    """Independent normals; from window `change` on the first is shifted by `shift` standard deviations."""

    def make(rng: np.random.Generator, windows: int, n: int, m: int) -> Stream:
        specs = reference_of({f"x{i}": rng.standard_normal(m) for i in range(features)})["columns"]
        counts = {}
        for i, (name, spec) in enumerate(specs.items()):
            means = np.zeros(windows)
            if i == 0:
                means[change:] = shift
            p = np.array([shares(spec, partial(stats.norm.cdf, loc=mean)) for mean in np.unique(means)])
            counts[name] = rng.multinomial(n, p[np.searchsorted(np.unique(means), means)]).astype(np.int64)
        return Stream(specs, counts, n)

    return make


def standing(
    features: int = 10, *, apart: float = 0.1, slope: float = 0.0, shift: float = 0.0, change: int = 0
) -> Make:
    """Normals of which the first is never where its reference was: `apart` sd off, then by `slope` more in a window,
    and from window `change` on by `shift` more.
    """

    def make(rng: np.random.Generator, windows: int, n: int, m: int) -> Stream:
        specs = reference_of({f"x{i}": rng.standard_normal(m) for i in range(features)})["columns"]
        means = apart + slope * np.arange(windows) + shift * (np.arange(windows) >= change)
        counts = {}
        for i, (name, spec) in enumerate(specs.items()):
            p = np.array([shares(spec, partial(stats.norm.cdf, loc=mean)) for mean in (means if i == 0 else [0.0])])
            counts[name] = rng.multinomial(n, p, None if i == 0 else windows).astype(np.int64)
        return Stream(specs, counts, n)

    return make


def awkward(features: int = 20) -> Make:
    """Heavy tails (t with 2 degrees of freedom), 200 equal categories, and zeros in nine of ten rows, in turn."""

    def make(rng: np.random.Generator, windows: int, n: int, m: int) -> Stream:
        drawn: Columns = {}
        for i in range(features):
            kind = i % 3
            if kind == 0:
                drawn[f"x{i}"] = rng.standard_t(2, m)
            elif kind == 1:
                drawn[f"x{i}"] = np.array([f"c{k}" for k in rng.integers(0, 200, m)], dtype=object)
            else:
                drawn[f"x{i}"] = np.where(rng.random(m) < 0.9, 0.0, rng.exponential(1.0, m))
        specs = reference_of(drawn)["columns"]
        counts = {}
        for i, (name, spec) in enumerate(specs.items()):
            if spec["kind"] == "category":
                kept, other = len(spec["values"]), len(spec["others"])
                p = np.array([0.0, (200 - kept - other) / 200, other / 200, *[1 / 200] * kept])
            elif i % 3 == 0:
                p = shares(spec, lambda x: stats.t.cdf(x, 2))
            else:
                p = _zero_inflated(spec)
            counts[name] = rng.multinomial(n, p / p.sum(), windows).astype(np.int64)
        return Stream(specs, counts, n)

    return make


def _zero_inflated(spec: Mapping[str, Any]) -> Floats:
    """Shares of bins [low, high): zero has nine tenths, in the first bin."""
    p = shares(spec, lambda x: 0.9 * (x >= 0) + 0.1 * stats.expon.cdf(x))
    p[FIRST_NUMBER] += p[BELOW]
    p[BELOW] = 0.0
    return p


def autoregressive(features: int = 20, rho: float = 0.3) -> Make:
    """Normals whose successive rows correlate by `rho`, the reference's too."""

    def draw(rng: np.random.Generator, rows: int) -> Iterator[Floats]:
        from scipy.signal import lfilter

        for _ in range(features):
            noise = rng.standard_normal(rows)
            noise[1:] *= np.sqrt(1 - rho**2)
            yield np.asarray(lfilter([1.0], [1.0, -rho], noise))

    return _by_rows(draw)


def correlated(features: int = 20, share: float = 0.49) -> Make:
    """Normals that correlate by `share` with each other, rows independent."""

    def draw(rng: np.random.Generator, rows: int) -> Iterator[Floats]:
        common = rng.standard_normal(rows) * np.sqrt(share)
        for _ in range(features):
            yield rng.standard_normal(rows) * np.sqrt(1 - share) + common

    return _by_rows(draw)


def _by_rows(draw: Callable[[np.random.Generator, int], Iterator[Floats]]) -> Make:
    def make(rng: np.random.Generator, windows: int, n: int, m: int) -> Stream:
        specs = reference_of({f"x{i}": values for i, values in enumerate(draw(rng, m))})["columns"]
        columns = zip(specs.items(), draw(rng, windows * n), strict=True)
        return Stream(specs, {name: count_windows(spec, values, n) for (name, spec), values in columns}, n)

    return make


def count_windows(spec: dict[str, Any], values: Floats, n: int) -> Ints:
    """Counts [T, bins] of consecutive windows of n rows: `bin_counts` of each, in one pass for numbers."""
    windows = len(values) // n
    held = values[: windows * n].astype(np.float32)
    # a number is at or above an edge when it is at or above the next single-precision number from there
    bins = np.zeros(len(held), np.int8)
    for edge in (spec["minimum"], *spec["edges"]):
        near = np.float32(edge)
        bins += held >= (near if near >= edge else np.nextafter(near, np.float32(np.inf)))
    place = bins.astype(np.int64) - 1 + FIRST_NUMBER
    place[bins == 0] = BELOW
    place[held > spec["maximum"]] = ABOVE
    width = len(spec["counts"])
    place += np.repeat(np.arange(windows) * width, n)
    return np.bincount(place, minlength=windows * width).reshape(windows, width).astype(np.int64)


def faulty(*, nulls: float = 0.0, unseen: float = 0.0, missing: bool = False, change: int = 0) -> Make:
    """Twenty columns, of which one number goes null, or one category goes unseen, at the given shares."""

    def make(rng: np.random.Generator, windows: int, n: int, m: int) -> Stream:
        def rows(count: int, *, bad: bool) -> Columns:
            columns: Columns = {f"x{i}": rng.standard_normal(count) for i in range(19)}
            kind = np.array([f"c{k}" for k in rng.integers(0, 8, count)], dtype=object)
            if bad:
                columns["x0"][(rng.random(count) < nulls) | missing] = np.nan
                kind[rng.random(count) < unseen] = "new"
            return {**columns, "kind": kind}

        specs = reference_of(rows(m, bad=False))["columns"]
        counts: dict[str, list[Ints]] = {name: [] for name in specs}
        for index in range(windows):
            columns = rows(n, bad=index >= change)
            for name, spec in specs.items():
                counts[name].append(bin_counts(spec, columns[name]))
        return Stream(specs, {name: np.stack(found) for name, found in counts.items()}, n)

    return make


def daily(features: int = 20, *, amplitude: float = 0.4, seasonal: bool = True) -> Make:
    """Hourly windows of normals that follow the clock: each in another phase, the reference drawn over whole days."""

    def make(rng: np.random.Generator, windows: int, n: int, m: int) -> Stream:
        hour = 2 * np.pi * np.arange(24) / 24
        phases = rng.uniform(0, 2 * np.pi, features)
        at = np.arange(m) % 24 * 3600.0
        drawn = {
            f"x{i}": rng.standard_normal(m) + amplitude * np.sin(hour[np.arange(m) % 24] + phases[i])
            for i in range(features)
        }
        specs = reference_of(drawn, at if seasonal else None)["columns"]
        counts = {}
        for i, (name, spec) in enumerate(specs.items()):
            means = amplitude * np.sin(hour + phases[i])
            p = np.array([shares(spec, partial(stats.norm.cdf, loc=mean)) for mean in means])
            counts[name] = rng.multinomial(n, p[np.arange(windows) % 24]).astype(np.int64)
        return Stream(specs, counts, n)

    return make
