"""Labels without a prediction are parked, then given up, never silently; revisions and wrong clocks are defined."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from monitoring.settings import MonitoringSettings
from monitoring.watching.monitor import Monitor
from tests.unit.test_monitoring_monitor import (
    REGRESSION,
    SETTINGS,
    T0,
    begin,
    labels,
    nothing,
    predictions,
    reference,
    stamps,
)

HOUR = 3_600.0


def told(ids: list[str], label: list[float], *, at: float, received: float | None = None, seq: int = 0) -> pa.Table:
    """Labels of one moment."""
    count = len(ids)
    return pa.table(
        {
            "_id": ids,
            "_label": pa.array(label),
            "_at": stamps([at] * count),
            "_received": stamps([at if received is None else received] * count),
            "_seq": pa.array(range(seq, seq + count)),
        }
    )


def watching(**more: Any) -> Monitor:
    return Monitor.start("trips", 1, REGRESSION, reference(REGRESSION), SETTINGS.model_copy(update=more))


def tick(monitor: Monitor, at: float) -> None:
    """Something else happens, so that the clock moves."""
    monitor.observe(nothing(), told([f"tick-{at}"], [0.0], at=at))


def test_a_parked_label_is_given_up_after_its_time_and_not_before() -> None:
    """It is kept for `park_hours`, then handed to whoever looks in the lake."""
    monitor = watching(park_hours=2.0)
    monitor.observe(nothing(), told(["early"], [1.0], at=T0))
    tick(monitor, T0 + 1.9 * HOUR)
    assert not monitor.given_up
    assert monitor.snapshot()["labels_parked"] == 1
    tick(monitor, T0 + 2.1 * HOUR)
    tick(monitor, T0 + 2.2 * HOUR)
    assert list(monitor.given_up) == ["early"]
    again = Monitor.restore(monitor.state(), REGRESSION, reference(REGRESSION), SETTINGS)
    assert list(again.given_up) == ["early"]
    again.settled({"early"})
    assert not again.given_up


def test_no_label_is_given_up_while_predictions_wait_to_be_folded() -> None:
    """After a weekend without a worker labels, few files, come before the predictions that they are about."""
    monitor = watching(park_hours=2.0)
    made = predictions(100)
    monitor.observe(nothing(), labels(made), all_made=False)
    for hours in (3, 60):
        monitor.observe(nothing(), told([f"tick-{hours}"], [0.0], at=T0 + hours * HOUR), all_made=False)
    assert not monitor.given_up
    monitor.observe(made, nothing())
    assert monitor.snapshot()["labels_joined"] == 100
    assert "p000000" not in monitor.given_up


def test_a_prediction_that_comes_late_finds_its_parked_label() -> None:
    """Its event reaches the lake an hour after the label did: joined, and nothing is given up."""
    monitor = watching(park_hours=4.0)
    made = predictions(100)
    monitor.observe(nothing(), labels(made))
    tick(monitor, T0 + 3 * HOUR)
    monitor.observe(made, nothing())
    tick(monitor, T0 + 9 * HOUR)
    assert (monitor.snapshot()["labels_joined"], "p000000" in monitor.given_up) == (100, False)


def test_labels_of_another_version_are_neither_parked_nor_judged() -> None:
    """A candidate's answers are known, so that their labels are not taken for strays; in either order."""
    made = predictions(100)
    other = made.set_column(made.schema.get_field_index("_version"), "_version", pa.array([2] * 100))
    before, after = (other, nothing()), (nothing(), labels(made))
    for order in ((before, after), (after, before)):
        monitor = begin()
        for events in order:
            monitor.observe(*events)
        tick(monitor, T0 + 100 * HOUR)
        shot = monitor.snapshot()
        assert (shot["labels_joined"], shot["labels_parked"], monitor.given_up) == (0, 0, ())


def test_a_storm_of_unknown_ids_is_bounded_and_counted() -> None:
    """A hundred thousand of them in a book of a hundred: what was pushed out is handed over or counted."""
    monitor = watching(max_pending=100)
    ids = [f"stray-{n}" for n in range(100_000)]
    monitor.observe(nothing(), told(ids, [1.0] * len(ids), at=T0))
    tick(monitor, T0 + HOUR)
    shot = monitor.snapshot()
    assert len(monitor.state()) < 50_000
    assert len(monitor.given_up) == 100
    assert shot["labels_waiting"] + len(monitor.given_up) + monitor.settled(()) == len(ids) + 1


def test_a_storm_of_labels_for_one_id_is_one_label() -> None:
    """The last one received counts; a hundred thousand before it leave nothing behind."""
    monitor = begin()
    made = predictions(1)
    storm = told(["p000000"] * 100_000, [float(n) for n in range(100_000)], at=T0 + 20)
    monitor.observe(made, storm)
    before = len(monitor.state())
    tick(monitor, T0 + HOUR)
    shot = monitor.snapshot()
    assert shot["labels_joined"] == 1
    assert shot["performance"]["realized"] == pytest.approx(abs(99_999 - made.column("_prediction")[0].as_py()))
    assert len(monitor.state()) <= before + 200


def test_the_same_label_again_is_no_revision() -> None:
    """After it was used, only a label that says otherwise counts as one."""
    monitor = begin()
    made = predictions(1)
    monitor.observe(made, told(["p000000"], [2.0], at=T0 + 20))
    tick(monitor, T0 + HOUR)
    monitor.observe(nothing(), told(["p000000"] * 3, [2.0] * 3, at=T0 + 30, seq=5))
    assert monitor.snapshot()["labels_revised"] == 0
    monitor.observe(nothing(), told(["p000000"], [3.0], at=T0 + 40, seq=9))
    assert monitor.snapshot()["labels_revised"] == 1


def test_the_delay_is_that_of_the_first_label() -> None:
    """A revision a day later does not make labels look late, in whichever order they are delivered."""
    first, later = told(["p000000"], [1.0], at=T0 + 50), told(["p000000"], [2.0], at=T0 + 90_000, seq=1)
    for order in ([first, later], [later, first]):
        monitor = begin()
        monitor.observe(predictions(1), pa.concat_tables(order))
        tick(monitor, T0 + 100_000)
        assert monitor.snapshot()["maturity"]["p95_s"] == 60.0


def test_a_label_is_late_by_its_receipt_and_by_its_time() -> None:
    """A list of last week's truths took a week, whatever times it gives; a replay has only the events' times."""
    monitor = begin()
    made = predictions(1).append_column("_received", stamps([T0]))
    monitor.observe(made, told(["p000000"], [1.0], at=T0 + 60, received=T0 + 6 * 86_400))
    tick(monitor, T0 + 7 * 86_400)
    assert monitor.snapshot()["maturity"]["p50_s"] == 7 * 86_400


def test_a_label_from_the_future_moves_no_clock_and_waits_for_its_time() -> None:
    """Dated a day ahead of its receipt: labels of now keep their order, and it is used when its time has come."""
    monitor = begin()
    made = predictions(3)
    monitor.observe(made, told(["p000000"], [1.0], at=T0 + 86_400, received=T0 + 300))
    monitor.observe(nothing(), told(["p000001"], [1.0], at=T0 + 310, seq=1))
    assert monitor.snapshot()["labels_joined"] == 0
    tick(monitor, T0 + 400)
    assert monitor.snapshot()["labels_joined"] == 1
    tick(monitor, T0 + 86_400 + 61)
    assert monitor.snapshot()["labels_joined"] == 2


def test_a_label_before_its_prediction_counts_and_took_no_time() -> None:
    """Its clock was wrong by an hour: it is used, and no delay is below nothing."""
    monitor = begin()
    monitor.observe(predictions(1), told(["p000000"], [1.0], at=T0 - HOUR))
    tick(monitor, T0 + HOUR)
    shot = monitor.snapshot()
    assert (shot["labels_joined"], shot["maturity"]["p95_s"]) == (1, 1.0)


def test_a_new_champion_takes_over_what_is_parked_and_how_long_labels_take() -> None:
    """Strays are not forgotten with a promotion, and labels of the former champion are no strays."""
    former = watching(park_hours=1.0)
    made = predictions(100)
    former.observe(made.slice(0, 50), labels(made.slice(0, 50)))
    former.observe(made.slice(50), told(["stray"], [1.0], at=T0 + 9_000))
    heir = Monitor.start("trips", 2, REGRESSION, reference(REGRESSION), MonitoringSettings(park_hours=1.0))
    heir.inherit(former.state())
    heir.inherit(b"of another format")
    heir.observe(nothing(), labels(made))
    tick(heir, T0 + 20 * HOUR)
    tick(heir, T0 + 30 * HOUR)
    assert [i for i in heir.given_up if not i.startswith("tick")] == ["stray"]
    assert heir.snapshot()["maturity"]["labels"] == 50
    assert heir.snapshot()["labels_joined"] == 0
