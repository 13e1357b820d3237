"""Triggers: what pulls and what holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from monitoring.alerting.metrics import WorkerMetrics
from retrain.gauges import Gauges
from retrain.triggering.triggers import Facts, PastRun, backoff, breaker_open, decide

NOW = datetime(2013, 7, 1, tzinfo=UTC)
DAY = timedelta(days=1)
CALM = Facts(
    now=NOW,
    running=False,
    in_trial=False,
    data_quality="ok",
    performance="ok",
    schedule_due=None,
    requested_at=None,
    request_reason="manual",
    labels=10_000,
    past=(),
)
DROP = replace(CALM, performance="confirmed")


def reason(facts: Facts) -> str | None:
    return decide(facts, cooldown=7 * DAY, min_labels=500).reason


def test_opted_triggers_pull_in_order() -> None:
    """A request before an alert, harm before the schedule, volume and estimates last and only when asked for."""
    every = {"performance", "alert", "volume", "estimated"}

    def of(facts: Facts) -> str | None:
        return decide(facts, cooldown=7 * DAY, min_labels=500, triggers=every).reason

    worse = replace(CALM, estimated="confirmed")
    more = replace(worse, learned=1_000, fresh=200)
    due = replace(more, schedule_due=NOW)
    harm = replace(due, performance="confirmed")
    alert = replace(harm, alert="DiskOnFire")
    asked = replace(alert, requested_at=NOW)
    cases = (worse, more, due, harm, alert, asked)
    assert [of(c) for c in cases] == ["estimated", "volume", "schedule", "performance", "alert", "manual"]
    assert of(replace(worse, learned=1_000, fresh=199)) == "estimated"
    assert of(replace(CALM, learned=0, fresh=10_000)) is None  # nobody knows what the champion was fitted on
    assert reason(replace(more, estimated="ok")) is None
    assert reason(worse) is None


def test_what_holds_says_until_when() -> None:
    """A pause has an end on the model's clock; a brake that an event lets go has none."""
    held = decide(replace(DROP, past=[PastRun(NOW - DAY, "refused")]), cooldown=7 * DAY, min_labels=500)
    assert (held.brake, held.next_at) == ("cooldown", NOW + 13 * DAY)
    few = decide(replace(DROP, labels=3), cooldown=7 * DAY, min_labels=500)
    assert (few.brake, few.next_at) == ("labels", None)
    full = decide(replace(DROP, full=True), cooldown=7 * DAY, min_labels=500)
    assert full.brake == "full"
    calm = decide(replace(CALM, schedule_due=NOW + DAY), cooldown=7 * DAY, min_labels=500)
    assert (calm.brake, calm.next_at) == (None, NOW + DAY)


def test_cancelled_runs_and_repeats_are_no_failures() -> None:
    """They move the clock; neither the pause grows nor the breaker opens for them."""
    void = PastRun(NOW, "void")
    assert backoff([void, void, PastRun(NOW, "refused")]) == 2
    assert not breaker_open([void, *[PastRun(NOW, "error")] * 2])
    assert breaker_open([void, *[PastRun(NOW, "error")] * 3])


def test_nothing_happens_without_a_reason() -> None:
    assert reason(CALM) is None


def test_performance_and_schedule_pull() -> None:
    assert reason(DROP) == "performance"
    assert reason(replace(CALM, schedule_due=NOW)) == "schedule"
    assert reason(replace(CALM, schedule_due=NOW + DAY)) is None


def test_each_brake_holds_and_says_why() -> None:
    for held, word in (
        (replace(DROP, data_quality="broken"), "data quality"),
        (replace(DROP, running=True), "run"),
        (replace(DROP, in_trial=True), "trial"),
        (replace(DROP, labels=499), "labels"),
        (replace(DROP, past=[PastRun(NOW - DAY, "candidate")]), "cooling"),
        (replace(DROP, past=[PastRun(NOW - 90 * DAY, "error")] * 3), "breaker"),
    ):
        found = decide(held, cooldown=7 * DAY, min_labels=500)
        assert found.reason is None
        assert word in found.why


def test_refused_gates_double_the_cooldown_up_to_eight() -> None:
    refused = [PastRun(NOW, "refused")] * 5
    assert [backoff(refused[:n]) for n in range(6)] == [1, 2, 4, 8, 8, 8]
    once = replace(DROP, past=[PastRun(NOW - 13 * DAY, "refused")])
    assert reason(once) is None
    assert reason(replace(once, now=NOW + DAY)) == "performance"


def test_a_success_forgets_the_failures_before_it() -> None:
    assert backoff([PastRun(NOW, "candidate"), PastRun(NOW, "refused"), PastRun(NOW, "error")]) == 1


def test_a_trial_that_ended_starts_the_cooldown_again() -> None:
    past = [PastRun(NOW - 20 * DAY, "candidate")]
    assert reason(replace(DROP, past=past)) == "performance"
    assert reason(replace(DROP, past=past, decided_at=NOW - DAY)) is None


def test_a_human_passes_the_cooldown_but_not_broken_data() -> None:
    asked = replace(CALM, requested_at=NOW, past=[PastRun(NOW, "error")] * 3)
    assert reason(asked) == "manual"
    assert reason(replace(asked, request_reason="freshness")) == "freshness"
    assert reason(replace(asked, data_quality="broken")) is None


def test_what_holds_a_run_is_told_to_prometheus() -> None:
    """Since when a scheduled one has been due, but while a trial decides; and whether the breaker is open."""
    metrics = WorkerMetrics(CollectorRegistry())
    gauges = Gauges(metrics)

    def told(facts: Facts) -> tuple[float | None, ...]:
        gauges.waiting("m", facts)
        names = ("perene_retrain_overdue_seconds", "perene_retrain_breaker_open")
        return tuple(metrics.registry.get_sample_value(name, {"model": "m"}) for name in names)

    due = replace(CALM, schedule_due=NOW - 3 * DAY, labels=0)
    assert told(due) == (3 * 86_400, 0)
    assert told(replace(due, in_trial=True)) == (0, 0)
    assert told(replace(due, schedule_due=NOW + DAY)) == (0, 0)
    assert told(replace(due, schedule_due=None, past=[PastRun(NOW, "error")] * 3)) == (0, 1)


@given(st.lists(st.sampled_from(["candidate", "refused", "error"]), max_size=6), st.integers(0, 100))
def test_never_two_runs_inside_one_cooldown(outcomes: list[str], days: int) -> None:
    """Whatever the history, a trigger within the plain cooldown of the last run is held."""
    past = [PastRun(NOW - timedelta(days=days), o) for o in outcomes]  # type: ignore[arg-type]
    found = reason(replace(DROP, past=past))
    if past and days < 7:
        assert found is None
    if not past:
        assert found == "performance"


def test_harm_waits_until_there_is_something_to_learn() -> None:
    """A run right after a change would learn the world that has gone; the schedule is not held by it."""
    early = replace(DROP, ready_at=NOW + DAY)
    assert reason(early) is None
    assert "too little to learn" in decide(early, cooldown=7 * DAY, min_labels=500).why
    assert reason(replace(early, schedule_due=NOW)) == "schedule"
    assert reason(replace(early, now=NOW + DAY)) == "performance"


def test_harm_waits_for_a_new_holdout_at_most() -> None:
    """Three refusals stretch a cooldown of 7 days to 56; with harm standing, to the 15 that a holdout takes."""
    past = [PastRun(NOW - 16 * DAY, "refused"), PastRun(NOW - 40 * DAY, "refused"), PastRun(NOW - 60 * DAY, "refused")]
    held = replace(DROP, past=past)
    assert reason(held) is None
    assert reason(replace(held, patience=15 * DAY)) == "performance"
    assert reason(replace(held, patience=17 * DAY)) is None
    assert reason(replace(held, patience=DAY, past=[PastRun(NOW - 3 * DAY, "refused")])) is None
    assert reason(replace(held, performance="ok", schedule_due=NOW, patience=15 * DAY)) is None
