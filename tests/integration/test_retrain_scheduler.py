"""The clock, the lease and the fence, on a real ledger: two leaders never both act."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from registry.errors import LeaseLost
from registry.ledger import Ledger
from retrain.leader import Leader
from retrain.settings import WorkerSettings
from retrain.triggering.scheduler import Clock
from retrain.worker import create_worker


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    opened.close()


def test_the_clock_calls_and_stops() -> None:
    """Calls come from another thread, and none comes after `stop`."""
    calls: list[str] = []
    enough = threading.Event()
    clock = Clock()

    def call() -> None:
        calls.append(threading.current_thread().name)
        if len(calls) >= 3:
            enough.set()

    clock.every(0.02, call)
    clock.start()
    assert enough.wait(60)
    clock.stop()
    count = len(calls)
    time.sleep(0.1)
    assert len(calls) == count
    assert threading.current_thread().name not in calls


def test_one_leads_and_the_next_takes_over(ledger: Ledger) -> None:
    a, b = Leader(ledger, "a", 60.0), Leader(ledger, "b", 60.0)
    first = a.claim()
    assert first is not None
    assert b.claim() is None
    a.ttl_s = 0.01
    assert a.claim() == first
    time.sleep(0.1)  # a is stalled beyond its lease
    second = b.claim()
    assert second is not None
    assert second > first
    with pytest.raises(LeaseLost):
        ledger.record_evidence("m", "finding", {}, token=first)
    ledger.record_evidence("m", "finding", {}, token=second)
    assert a.claim() is None
    assert a.token is None


def test_release_hands_over_at_once(ledger: Ledger) -> None:
    a, b = Leader(ledger, "a", 60.0), Leader(ledger, "b", 60.0)
    assert a.claim() is not None
    a.release()
    assert b.claim() is not None


def test_no_two_leaders_ever_act_together(ledger: Ledger) -> None:
    """Four workers with stalls longer than their lease: fenced writes are in token order, stale ones are refused."""
    written: list[int] = []
    refused: list[int] = []
    lock = threading.Lock()

    def work(name: str, stall: float) -> None:
        leader = Leader(ledger, name, 0.05)
        for turn in range(25):
            token = leader.claim()
            if token is None:
                time.sleep(0.01)
                continue
            if turn % 3 == 0:
                time.sleep(stall)
            try:
                number = ledger.record_evidence("m", "act", {"token": token}, token=token)
            except LeaseLost:
                leader.drop()
                with lock:
                    refused.append(token)
            else:
                with lock:
                    written.append(number)

    threads = [threading.Thread(target=work, args=(f"w{i}", 0.06 + 0.02 * i)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tokens = [row.body["token"] for row in reversed(ledger.evidence("m", "act", limit=1000))]
    assert len(tokens) == len(written)
    assert tokens == sorted(tokens)  # once a newer leader wrote, no older one ever did
    assert refused  # the stalls were long enough for the fence to matter
    assert ledger.verify() == []


def test_only_one_of_two_workers_ticks(tmp_path: Path) -> None:
    """The second worker stands by, takes over after the first one stalls, and the first notices."""
    settings = WorkerSettings(lease_ttl_s=60.0, port=0)
    one = create_worker(settings, tmp_path, registry=CollectorRegistry())
    two = create_worker(settings, tmp_path, registry=CollectorRegistry())
    try:
        assert one.tick()
        assert not two.tick()
        assert two.gauges.metrics.scheduler_is_leader._value.get() == 0
        one.leader.ttl_s = 0.01
        one.leader.keep()
        time.sleep(0.1)
        assert two.tick()
        assert not one.tick()
        assert one.gauges.metrics.scheduler_is_leader._value.get() == 0
    finally:
        one.close()
        two.close()
