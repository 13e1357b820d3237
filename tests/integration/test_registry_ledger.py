"""The ledger on SQLite and on PostgreSQL: compare-and-swap, chains, leases, concurrent writers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import create_engine, insert

from registry.errors import LeaseLost, LedgerConflict, ModelUnknown, NameInvalid
from registry.keys import KeyLimits, digest, new_key
from registry.ledger import LEADER, Ledger
from registry.ledger.rows import iso, utc_now
from registry.ledger.tables import deployments


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    opened = Ledger.open(ledger_url)
    yield opened
    opened.close()


def move(ledger: Ledger, revision: int, champion: int, token: int | None = None) -> None:
    ledger.move("toy", expected_revision=revision, champion=champion, actor="me", reason="test", token=token)


def test_moves_are_appended_and_the_last_one_counts(ledger: Ledger) -> None:
    """Current state, history and as-of."""
    move(ledger, 0, 1)
    between = datetime.now(UTC)
    move(ledger, 1, 2)
    current = ledger.deployment("toy")
    assert current is not None
    assert (current.champion, current.revision) == (2, 2)
    assert [d.champion for d in ledger.history("toy")] == [1, 2]
    before = ledger.deployment("toy", as_of=between)
    assert before is not None
    assert before.champion == 1
    assert ledger.deployment("other") is None


def test_a_stale_revision_is_refused(ledger: Ledger) -> None:
    """Compare-and-swap: the second of two deciders hears of the first."""
    move(ledger, 0, 1)
    with pytest.raises(LedgerConflict, match="moved meanwhile"):
        move(ledger, 0, 2)


def test_concurrent_movers_make_one_row_per_revision(ledger: Ledger) -> None:
    """Eight threads race for every revision; exactly one wins each."""
    wins: list[int] = []

    def race(champion: int) -> None:
        for revision in range(10):
            try:
                move(ledger, revision, champion)
            except LedgerConflict:
                continue
            wins.append(revision)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = ledger.history("toy")
    assert sorted(wins) == [d.revision - 1 for d in history]
    assert len({d.revision for d in history}) == len(history)
    assert ledger.verify() == []


def test_rollback_walks_back_through_champions(ledger: Ledger) -> None:
    """Back once, and back again; then there is nowhere to go."""
    with pytest.raises(ModelUnknown):
        ledger.rollback("toy", actor="me", reason="none yet")
    for revision, champion in enumerate([1, 2, 3]):
        move(ledger, revision, champion)
    assert ledger.rollback("toy", actor="me", reason="bad").champion == 2
    assert ledger.rollback("toy", actor="me", reason="worse").champion == 1
    with pytest.raises(LedgerConflict, match="no earlier champion"):
        ledger.rollback("toy", actor="me", reason="hopeless")


def test_rollback_ends_a_trial(ledger: Ledger) -> None:
    """A candidate does not survive a rollback."""
    move(ledger, 0, 1)
    move(ledger, 1, 2)
    ledger.move("toy", expected_revision=2, champion=2, candidate=3, mode="ab", weight=0.5, actor="me", reason="trial")
    back = ledger.rollback("toy", actor="me", reason="bad")
    assert (back.champion, back.candidate, back.mode, back.weight) == (1, None, None, 0.0)


@pytest.mark.parametrize(
    "trial",
    [{"candidate": 1, "mode": "ab"}, {"candidate": 2}, {"mode": "ab"}, {"candidate": 2, "mode": "ab", "weight": 1.5}],
)
def test_impossible_trials_are_refused(ledger: Ledger, trial: dict[str, object]) -> None:
    """Champion against itself, half a trial, a share above one."""
    with pytest.raises(LedgerConflict):
        ledger.move("toy", expected_revision=0, champion=1, actor="me", reason="r", **trial)  # type: ignore[arg-type]


def test_names_are_checked(ledger: Ledger) -> None:
    """A name that climbs folders never reaches the ledger."""
    with pytest.raises(NameInvalid):
        ledger.move("../x", expected_revision=0, champion=1, actor="me", reason="r")


def test_only_one_holder_leads_and_the_stale_one_is_fenced(ledger: Ledger) -> None:
    """A worker that slept through its lease cannot write any more."""
    first = ledger.acquire(LEADER, "a", ttl_seconds=30)
    assert first is not None
    assert ledger.acquire(LEADER, "b", ttl_seconds=30) is None
    assert ledger.renew(LEADER, "a", first, ttl_seconds=0.0)
    second = ledger.acquire(LEADER, "b", ttl_seconds=30)
    assert second is not None
    assert second > first
    assert not ledger.renew(LEADER, "a", first, ttl_seconds=30)
    for write in (
        lambda: move(ledger, 0, 1, token=first),
        lambda: ledger.record_evidence("toy", "gate", {}, token=first),
        lambda: ledger.record_run("r", "toy", status="running", step="train", body={}, token=first),
        lambda: ledger.save_state("monitor/toy", b"x", token=first),
    ):
        with pytest.raises(LeaseLost):
            write()
    move(ledger, 0, 1, token=second)


def test_rows_of_evidence_are_added_all_or_none(ledger: Ledger) -> None:
    """Each under an id of its own in the chain; one that cannot be written keeps the others out."""
    ledger.record_evidence("toy", "gate", {"n": 0})
    ids = ledger.append_evidence("toy", "alert", [{"n": n} for n in range(1, 6)])
    with pytest.raises((TypeError, ValueError)):
        ledger.append_evidence("toy", "alert", [{"n": 6}, {"n": object()}])
    assert ledger.append_evidence("toy", "alert", []) == []
    assert [row.body["n"] for row in ledger.evidence("toy")] == [5, 4, 3, 2, 1, 0]
    assert [row.id for row in ledger.evidence("toy", "alert")] == ids[::-1]
    assert ledger.verify() == []


def test_runs_and_experiments_show_their_latest_row(ledger: Ledger) -> None:
    """Append-only below, one row each above."""
    ledger.record_run("r1", "toy", status="running", step="train", body={"n": 1})
    ledger.record_run("r2", "toy", status="running", step="train", body={})
    ledger.record_run("r1", "toy", status="done", step="end", body={"n": 2})
    runs = ledger.runs("toy")
    assert [(r.run_id, r.status) for r in runs] == [("r2", "running"), ("r1", "done")]
    assert runs[1].body == {"n": 2}
    assert runs[1].started_at <= runs[1].at
    ledger.record_experiment("e1", "toy", state="running", stage="shadow", body={})
    ledger.record_experiment("e1", "toy", state="promoted", stage="done", body={})
    assert [(e.experiment_id, e.state) for e in ledger.experiments()] == [("e1", "promoted")]


def test_state_is_replaced(ledger: Ledger) -> None:
    """A key/value store for the monitors."""
    assert ledger.load_state("x") is None
    ledger.save_state("x", b"1")
    ledger.save_state("x", b"\x00\xff")
    assert ledger.load_state("x") == b"\x00\xff"


@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
def test_a_move_that_commits_late_is_noticed(ledger_url: str) -> None:
    """PostgreSQL gives out ids before it commits: a later move of another model must not hide the earlier one."""
    ledger = Ledger.open(ledger_url)
    engine = create_engine(ledger_url)
    fields = {"champion": 1, "weight": 0.0, "salt": "", "actor": "me", "reason": "test", "at": iso(utc_now())}
    with engine.connect() as late:
        late.execute(insert(deployments).values(model="slow", revision=1, previous="", hash="", **fields))
        ledger.move("quick", expected_revision=0, champion=1, actor="me", reason="test")
        before = ledger.revision()
        late.commit()
    engine.dispose()
    assert ledger.deployments().keys() == {"quick", "slow"}
    assert ledger.revision() > before
    ledger.close()


def test_keys_are_stored_as_digests_and_revoked_by_a_row(ledger: Ledger) -> None:
    """The secret is nowhere in the ledger; limits of the key's own are, and a revocation keeps them."""
    secret, record = new_key("app", {"predict"}, {"toy"}, limits=KeyLimits(2.5, rows_per_day=7))
    before = ledger.revision()
    ledger.add_key(record)
    assert ledger.revision() > before
    assert ledger.keys() == [record]
    assert digest(secret) == record.sha256
    assert secret not in repr(ledger.keys())
    ledger.revoke_key(record.id)
    assert ledger.keys() == [replace(record, revoked=True)]
    with pytest.raises(ModelUnknown):
        ledger.revoke_key("nobody")


def test_reopening_finds_everything(ledger: Ledger, ledger_url: str) -> None:
    """Tables are created once."""
    move(ledger, 0, 1)
    other = Ledger.open(ledger_url)
    assert other.deployments()["toy"].champion == 1
    other.close()


def test_two_processes_may_keep_the_same_new_state(ledger: Ledger, ledger_url: str) -> None:
    """Whoever comes second replaces what the first kept; nobody fails."""
    others = [Ledger.open(ledger_url) for _ in range(4)]
    start = threading.Barrier(4)
    failed: list[Exception] = []

    def keep(of: Ledger) -> None:
        try:
            for round_ in range(10):
                start.wait(60)
                of.save_state(f"aliases/{round_}", b"x")
        except Exception as error:  # whatever it is, the test must say so
            failed.append(error)

    threads = [threading.Thread(target=keep, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.close()
    assert failed == []
    assert [ledger.load_state(f"aliases/{n}") for n in range(10)] == [b"x"] * 10
