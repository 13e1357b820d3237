"""What a run is expected to take, and who is let in: decisions without an engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, Counter

from monitoring.alerting.metrics import ServeMetrics
from serving.errors import Overloaded
from serving.queues.admission import USED, Admission, Cost, Turn
from serving.settings import QueueSettings


class Short(Turn):
    """A turn that has only begun."""

    def over(self, patience: float = 1.0) -> bool:
        return False


@pytest.fixture
def refused() -> Callable[[str], Counter]:
    return ServeMetrics(CollectorRegistry()).rejected_total.labels


def test_a_cost_has_a_part_for_the_run_and_one_for_each_row() -> None:
    """Measured at one row and at many; a queue of several runs pays the first part for each."""
    cost = Cost.measured({1: 0.011, 11: 0.021})
    assert cost.of(100) == pytest.approx(0.11)
    assert cost.of(100, runs=4) == pytest.approx(0.14)


@pytest.mark.parametrize("seconds", [{1: 0.01}, {1: 0.01, 64: 0.005}], ids=["one row only", "faster with more rows"])
def test_a_cost_is_never_negative(seconds: dict[int, float]) -> None:
    """Whatever a noisy machine measured."""
    cost = Cost.measured(seconds)
    assert cost.row_s == 0.0
    assert cost.of(64) == pytest.approx(0.01)


def test_a_machine_that_became_slower_is_learnt_and_one_pause_is_not() -> None:
    """Ten times slower, run after run; then a single run of a second changes the next guess by a fifth at most."""
    cost = Cost(0.001, 0.0)
    for _ in range(60):
        cost.learn(1, 0.01)
    assert cost.of(1) == pytest.approx(0.01, rel=0.01)
    before = cost.of(1)
    cost.learn(1, 1.0)
    assert cost.of(1) == pytest.approx(1.2 * before)


def test_what_would_come_late_or_finds_a_full_queue_is_refused(refused: Callable[[str], Counter]) -> None:
    """Up to each bound everybody is let in; beyond it the refusal says when to come back, and is counted."""
    admission = Admission(QueueSettings(seconds=2.0, max_requests=3), Short(2.0), refused)
    admission.check(2, 2.0 * USED)
    with pytest.raises(Overloaded, match="too many"):
        admission.check(3, 0.0)
    with pytest.raises(Overloaded, match="in time") as late:
        admission.check(0, 7.5)
    assert late.value.retry_after_s == 7.5
    assert [refused(reason)._value.get() for reason in ("queue_full", "deadline")] == [1.0, 1.0]
