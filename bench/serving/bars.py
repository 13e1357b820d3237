"""The bars of the serving design, each held against the figures that were seen; what was not measured is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["met", "**missed**", "met, disturbed", "**missed**, disturbed", "not measured"]
"""Disturbed: other work on the machine may have made the figure what it is."""
DISTURBED = 1.0
"""Load average above the number of cores, from which on a run counts as disturbed."""
Results = Mapping[str, Any]
"""The saved figures by script: peers, heavy, bulk, overload, swaps, workers."""


@dataclass(frozen=True)
class Bar:
    """One bar; `value` answers nothing where its script has not seen it."""

    case: str
    what: str
    at_least: float | None
    at_most: float | None
    unit: str
    value: Callable[[Results], float | None]
    script: str = "peers"
    timed: bool = True

    def limit(self) -> str:
        """As words."""
        sign, limit = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{sign} {limit:g}{self.unit}"

    def held(self, results: Results) -> tuple[str, Verdict]:
        """The figure and the verdict."""
        seen = self.value(results)
        if seen is None:
            return "–", "not measured"
        good = seen >= self.at_least if self.at_least is not None else seen <= (self.at_most or 0.0)
        figure = f"{seen:,.3g}{self.unit}" if seen < 1000 else f"{seen:,.0f}{self.unit}"
        if self.timed and disturbed(results, self.script):
            return figure, "met, disturbed" if good else "**missed**, disturbed"
        return figure, "met" if good else "**missed**"


def disturbed(results: Results, script: str) -> bool:
    """Whether other work took the cores of a script's run."""
    facts = look(results, script, "machine") or {}
    rows = (look(results, script, "servers") or {}).values()
    loads = [facts.get("load_average", 0.0), *(one["load_average"] for row in rows for one in row["rounds"])]
    return max(map(float, loads)) > float(facts.get("cores", 0)) + DISTURBED


def look(results: Results, *path: str) -> Any:
    """What lies at `path`, or None."""
    found: Any = results
    for key in path:
        if not isinstance(found, Mapping) or found.get(key) is None:
            return None
        found = found[key]
    return found


def _of(name: str, *path: str) -> Callable[[Results], float | None]:
    return lambda results: look(results, "peers", "servers", name, "median", *path)


def _ratio(
    above: Callable[[Results], float | None], below: Callable[[Results], float | None]
) -> Callable[[Results], float | None]:
    def value(results: Results) -> float | None:
        a, b = above(results), below(results)
        return a / b if a is not None and b else None

    return value


def _best(*path: str) -> Callable[[Results], float | None]:
    """The best peer's figure."""

    def value(results: Results) -> float | None:
        servers = look(results, "peers", "servers") or {}
        found = [look(row, "median", *path) for row in servers.values() if row["peer"] and "error" not in row]
        return max((rate for rate in found if rate is not None), default=None)

    return value


def _at(*path: str) -> Callable[[Results], float | None]:
    return lambda results: look(results, *path)


def _enough(script: str, key: str, least: float, *path: str) -> Callable[[Results], float | None]:
    """A figure of a run that was as long as the bar asks for; a shorter one has not measured it."""

    def value(results: Results) -> float | None:
        size = look(results, script, key)
        return look(results, script, *path) if size is not None and size >= least else None

    return value


def _overload(*path: str) -> Callable[[Results], float | None]:
    return _enough("overload", "seconds", 60, *path)


def _swaps(*path: str) -> Callable[[Results], float | None]:
    return _enough("swaps", "asked", 1_000, *path)


_rate = _of("perene", "many", "rate")

BARS = (
    Bar("P1", "64 connections: rate to the best Python peer's", 15, None, " ×", _ratio(_rate, _best("many", "rate"))),
    Bar(
        "P1", "64 connections: rate to nginx's constant", 0.30, None, " ×", _ratio(_rate, _of("nginx", "many", "rate"))
    ),
    Bar(
        "P2",
        "1 connection: p50 to the echo's of the same stack",
        None,
        1.6,
        " ×",
        _ratio(_of("perene", "one", "p50_ms"), _of("echo", "one", "p50_ms")),
    ),
    Bar("P3", "server CPU a request at 64 connections", None, 40, " µs", _of("perene", "many", "cpu_us"), timed=False),
    Bar("P3", "of which the add-ons", None, 12, " µs", _at("addons", "addons_us"), "addons", timed=False),
    Bar(
        "P4",
        "heavy graph: rate to bare session.run at the batch reached",
        0.85,
        None,
        " ×",
        _at("heavy", "to_bare"),
        "heavy",
    ),
    Bar("P4", "heavy graph: rate to unbatched session.run", 3.5, None, " ×", _at("heavy", "to_unbatched"), "heavy"),
    Bar(
        "P5",
        "100-row JSON: rate to the best peer's",
        3,
        None,
        " ×",
        _ratio(_of("perene", "bulk", "rate"), _best("bulk", "rate")),
    ),
    Bar("P5", "10,000 rows, binary: time to bare session.run's", None, 1.1, " ×", _at("bulk", "to_bare"), "bulk"),
    Bar("P6", "first answer after start", None, 1.5, " s", _of("perene", "first_answer_s")),
    Bar("P6", "RSS of the serving process", None, 110, " MiB", _of("perene", "rss_mib"), timed=False),
    Bar(
        "P7",
        "heavy, 2 × saturation: goodput to capacity",
        0.95,
        None,
        " ×",
        _overload("heavy", "2", "goodput"),
        "overload",
    ),
    Bar(
        "P7", "heavy, 5 × saturation: goodput to peak", 0.9, None, " ×", _overload("heavy", "5", "goodput"), "overload"
    ),
    Bar("P7", "heavy, 5 ×: p99 of accepted", None, 100, " ms", _overload("heavy", "5", "accepted_p99_ms"), "overload"),
    Bar("P7", "heavy, 5 ×: p99 of rejections", None, 50, " ms", _overload("heavy", "5", "rejected_p99_ms"), "overload"),
    Bar("P7", "heavy, 5 ×: neither 2xx nor 429/503", None, 0, "", _overload("heavy", "5", "lost"), timed=False),
    Bar("P7", "heavy, 5 ×: recovery", None, 5, " s", _overload("heavy", "5", "recovery_s"), "overload"),
    Bar(
        "P7",
        "light, 2 × saturation: goodput to capacity",
        0.8,
        None,
        " ×",
        _overload("light", "2", "goodput"),
        "overload",
    ),
    Bar("P8", "1,000 swaps under load: answers that were not 2xx", None, 0, "", _swaps("failed"), timed=False),
    Bar("P8", "1,000 swaps: RSS growth", None, 50, " MiB", _swaps("rss_growth_mib"), timed=False),
    Bar("P8", "1,000 swaps: load kept", 200, None, " req/s", _swaps("rate"), timed=False),
    Bar("P9", "n workers: rate to n × one worker", 0.9, None, " ×", _at("workers", "to_linear"), "workers"),
)
