"""The numbers of several workers as one: sums for what was counted, a rule for each gauge, and never a step back."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from monitoring.alerting.catalogue import SERVE
from monitoring.alerting.metrics import ServeMetrics
from serving.fleet.aggregate import Across, Family, Sample, Snapshot, Tally, counted, merge
from serving.fleet.numbers import snapshot

ACROSS: dict[str, Across] = {"depth": "sum", "lag": "max"}
_values = st.floats(0, 1e6, allow_nan=False)
_labels = st.sampled_from([(), (("model", "a"),), (("model", "b"), ("arm", "x"))])


def _family(name: str, kind: str, sample: str) -> st.SearchStrategy[Family]:
    samples = st.dictionaries(_labels, _values, max_size=3)
    return samples.map(lambda d: Family(name, "text", kind, tuple(Sample(sample, k, v) for k, v in d.items())))


snapshots = st.tuples(
    _family("asked", "counter", "asked_total"),
    _family("seconds", "histogram", "seconds_sum"),
    _family("depth", "gauge", "depth"),
    _family("lag", "gauge", "lag"),
)


def values(whole: Snapshot) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(s.name, s.labels): s.value for family in whole for s in family.samples}


def rounded(whole: Snapshot) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Without the last digits, in which sums of fractions depend on their order."""
    return {key: float(f"{value:.9g}") for key, value in values(whole).items()}


@given(st.lists(snapshots, max_size=5))
def test_each_series_is_the_sum_or_the_highest_of_its_series(parts: list[Snapshot]) -> None:
    """As a plain count over all of them says."""
    made = values(merge(parts, ACROSS))
    keys = {key for part in parts for key in values(part)}
    assert made.keys() == keys
    for key in keys:
        found = [values(part)[key] for part in parts if key in values(part)]
        assert abs(made[key] - (max(found) if key[0] == "lag" else sum(found))) <= 1e-9 * sum(found)


@given(snapshots, snapshots, snapshots)
def test_the_order_does_not_matter(a: Snapshot, b: Snapshot, c: Snapshot) -> None:
    """Nor does merging in steps, nor one that has nothing."""
    whole = rounded(merge((a, b, c), ACROSS))
    assert rounded(merge((c, a, b), ACROSS)) == whole
    assert rounded(merge((merge((a, b), ACROSS), c), ACROSS)) == whole
    assert merge((a, ()), ACROSS) == a


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), _values), max_size=40))
def test_what_was_shown_is_never_taken_back(steps: Sequence[tuple[int, bool, float]]) -> None:
    """Workers count, die and begin again at 0, in any order, with fractions: each sum only grows, and none is lost."""
    tally = Tally(ACROSS)
    running: dict[int, float] = {}
    whole, before = 0.0, 0.0
    for process, dies, more in steps:
        if dies:
            running.pop(process, None)
            tally.ended(process)
        else:
            running[process] = running.get(process, 0.0) + more
            whole += more
            told = (
                Family("cost", "text", "counter", (Sample("cost_total", (), running[process]),)),
                Family("depth", "text", "gauge", (Sample("depth", (), 1.0),)),
            )
            tally.told(process, told)
        seen = values(tally.whole())
        now = seen.get(("cost_total", ()), 0.0)
        assert now >= before
        assert abs(now - whole) <= 1e-9 * whole
        assert seen.get(("depth", ()), 0.0) == len(running)
        before = now


def test_of_a_process_that_ended_only_its_counts_stay() -> None:
    """How it stood is nobody's business any more."""
    family = Family("asked", "text", "counter", (Sample("asked_total", (), 3.0), Sample("asked_created", (), 9.0)))
    gauge = Family("depth", "text", "gauge", (Sample("depth", (), 2.0),))
    assert counted((family, gauge)) == (family,)
    tally = Tally(ACROSS)
    tally.told("one", (family, gauge))
    tally.ended("one")
    tally.ended("one")
    younger = Family("asked", "text", "counter", (Sample("asked_total", (), 1.0), Sample("asked_created", (), 12.0)))
    tally.told("two", (younger,))
    assert values(tally.whole()) == {("asked_total", ()): 4.0, ("asked_created", ()): 9.0}


def test_a_snapshot_says_what_the_registry_says() -> None:
    """Every metric of a serve process is in it; merged with itself, counters are twice what they were."""
    registry = CollectorRegistry()
    metrics = ServeMetrics(registry)
    metrics.requests_total.labels("m", "1", "champion", "perene", "200").inc(3)
    metrics.request_duration_seconds.labels('a"b\\c\nd').observe(0.2)
    metrics.alias_lag_seconds.labels("m").set(7)
    metrics.queue_depth.labels("m").set(2)
    one = snapshot(registry)
    across = {metric.name: metric.across for metric in SERVE}
    twice = values(merge((one, one), across))
    assert twice["perene_requests_total", one[0].samples[0].labels] == 6
    assert twice["perene_alias_lag_seconds", (("model", "m"),)] == 7
    assert twice["perene_queue_depth", (("model", "m"),)] == 4
    assert b"perene_requests_total" in generate_latest(registry)
    assert {family.name for family in one} == {metric.name.removesuffix("_total") for metric in SERVE}


def test_every_gauge_adds_up_by_the_rule_of_the_catalogue() -> None:
    """A fact that all workers share is not twice true because two of them tell it."""
    shared = {metric.attribute for metric in SERVE if metric.kind == "gauge" and metric.across == "max"}
    assert shared == {
        "alias_lag_seconds",
        "build_info",
        "gpu_memory_bytes",
        "gpu_memory_total_bytes",
        "gpu_utilization_ratio",
        "jobs",
        "model_loaded_info",
    }
    registry = CollectorRegistry()
    Gauge("perene_build_info", "text", ["version"], registry=registry).labels("1").set(1)
    one = snapshot(registry)
    assert values(merge((one, one), {m.name: m.across for m in SERVE})) == values(one)
