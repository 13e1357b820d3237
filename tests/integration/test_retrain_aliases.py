"""Aliases that somebody moved in a real MLflow: followed after the checks, ignored or put back, and never twice."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from registry.aliases import SETTLING, Finding, Intake, Projected, last_projected, project
from registry.errors import LeaseLost
from registry.ledger import LEADER, Ledger
from registry.ledger.rows import utc_now
from registry.mlflow_peek import peek
from registry.mlflow_store import Store
from registry.policy import LedgerPolicy
from registry.promotion import Examiner
from retrain.aliases import AliasWatch
from retrain.places import Places
from tests.integration.registered_toy import MODEL, Shelf


@pytest.fixture
def shelf(home: Path, toy_bundle: Path, tmp_path: Path) -> Shelf:
    return Shelf(home, toy_bundle, tmp_path)


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    with closing(Ledger.open(f"sqlite:///{home / 'ledger.db'}")) as opened:
        yield opened


def plain(home: Path) -> MlflowClient:
    """What a person has: MLflow, without us."""
    return MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")


def deploy(ledger: Ledger, shelf: Shelf, champion: int) -> None:
    current = ledger.deployment(MODEL)
    ledger.move(
        MODEL, expected_revision=current.revision if current else 0, champion=champion, actor="ann", reason="by ann"
    )
    project(ledger, shelf.store, MODEL)


def look(
    shelf: Shelf, ledger: Ledger, *, token: int | None = None, at: datetime | None = None, **policy: Any
) -> dict[str, Finding]:
    """One look after everything has settled."""
    examiner = Examiner(shelf.store, ledger, LedgerPolicy(**policy), shelf.home / "cache" / "bundles")
    return Intake(ledger, shelf.store, examiner, token).look(at or utc_now() + SETTLING)


def said(ledger: Ledger) -> list[tuple[str, int | None, str]]:
    return [(r.body["action"], r.body["version"], r.body["why"]) for r in ledger.evidence(MODEL, "alias")]


def test_a_moved_champion_is_put_back_and_written_down(shelf: Shelf, ledger: Ledger, home: Path) -> None:
    """By default: one row of evidence, the alias where it was, the ledger unmoved; the next look finds nothing."""
    one, two = shelf.add(100), shelf.add(200)
    deploy(ledger, shelf, one)
    plain(home).set_registered_model_alias(MODEL, "champion", str(two))
    assert look(shelf, ledger) == {MODEL: Finding("revert", "champion", two)}
    assert shelf.store.aliases(MODEL) == {"champion": one}
    assert said(ledger) == [("revert", two, "put back: policy.aliases is revert")]
    assert look(shelf, ledger) == {MODEL: Finding("nothing")}
    plain(home).delete_registered_model_alias(MODEL, "champion")
    assert look(shelf, ledger, aliases="follow") == {MODEL: Finding("revert", "champion", None)}
    assert shelf.store.aliases(MODEL) == {"champion": one}
    assert len(ledger.history(MODEL)) == 1


def test_an_ignored_alias_stays_until_the_ledger_moves(shelf: Shelf, ledger: Ledger, home: Path) -> None:
    one, two, three = shelf.add(100), shelf.add(200), shelf.add(300)
    deploy(ledger, shelf, one)
    plain(home).set_registered_model_alias(MODEL, "champion", str(two))
    for _ in range(2):
        assert look(shelf, ledger, aliases="ignore") == {MODEL: Finding("leave", "champion", two)}
    assert shelf.store.aliases(MODEL) == {"champion": two}
    assert said(ledger) == []
    ledger.move(MODEL, expected_revision=1, champion=three, actor="ann", reason="on")
    assert look(shelf, ledger, aliases="ignore") == {MODEL: Finding("project")}
    assert shelf.store.aliases(MODEL) == {"champion": three}


def test_a_followed_alias_becomes_a_deployment(shelf: Shelf, ledger: Ledger, home: Path) -> None:
    """With actor mlflow; a trial ends as by any promotion, and the projection says so."""
    one, two = shelf.add(100), shelf.add(200)
    deploy(ledger, shelf, one)
    plain(home).set_registered_model_alias(MODEL, "champion", str(two))
    assert look(shelf, ledger, aliases="follow") == {MODEL: Finding("follow", "champion", two)}
    row = ledger.history(MODEL)[-1]
    assert (row.champion, row.actor, row.revision) == (two, "mlflow", 2)
    assert last_projected(ledger, MODEL) == Projected(2, two)
    assert look(shelf, ledger, aliases="follow") == {MODEL: Finding("nothing")}
    assert ledger.verify() == []


def test_what_may_not_be_promoted_is_not_followed(shelf: Shelf, ledger: Ledger, home: Path) -> None:
    """Not certified, lying, breaking, not approved, by nobody knows whom: put back, and evidence says why."""
    lenient = shelf.add_lenient(100)
    strict, lying, bare = shelf.add(200), shelf.add_lying(), shelf.add_plain()
    other = shelf.add_lenient(300)
    deploy(ledger, shelf, lenient)
    cases: list[tuple[int, dict[str, Any], str]] = [
        (bare, {}, "no certificate"),
        (lying, {}, "refused"),
        (strict, {}, "column 'carrier' no longer accepts null"),
        (other, {"approvals": 1}, "1 of 1 approvals are missing"),
        (other, {"separation_of_duties": True}, "nobody knows who"),
    ]
    for version, rules, why in cases:
        plain(home).set_registered_model_alias(MODEL, "champion", str(version))
        found = look(shelf, ledger, aliases="follow", **rules)
        assert found == {MODEL: Finding("revert", "champion", version)}
        assert why in said(ledger)[0][2]
        assert shelf.store.aliases(MODEL) == {"champion": lenient}
    assert [row.champion for row in ledger.history(MODEL)] == [lenient]
    assert look(shelf, ledger, aliases="follow") == {MODEL: Finding("nothing")}
    plain(home).set_registered_model_alias(MODEL, "champion", str(other))
    assert look(shelf, ledger, aliases="follow") == {MODEL: Finding("follow", "champion", other)}


def test_a_champion_named_in_mlflow_alone_becomes_the_first_deployment(
    shelf: Shelf, ledger: Ledger, home: Path
) -> None:
    """If it is certified and the policy follows; a refusal is written down once, not at each look."""
    version = shelf.add(100)
    plain(home).set_registered_model_alias(MODEL, "champion", str(version))
    bare = shelf.add_plain("bare")
    plain(home).set_registered_model_alias("bare", "champion", str(bare))
    assert look(shelf, ledger) == {}
    for _ in range(2):
        found = look(shelf, ledger, aliases="follow")
    assert found == {MODEL: Finding("nothing"), "bare": Finding("leave", "champion", bare)}
    [row] = ledger.history(MODEL)
    assert (row.champion, row.actor) == (version, "mlflow")
    assert ledger.deployment("bare") is None
    [refused] = ledger.evidence("bare", "alias")
    assert "no certificate" in refused.body["why"]


def test_a_projection_that_was_killed_half_way_is_nobody_s_decision(shelf: Shelf, ledger: Ledger) -> None:
    """A process that projects an older row late and dies: the younger row is projected again, nothing is taken in."""
    one, two = shelf.add(100), shelf.add(200)
    deploy(ledger, shelf, one)
    deploy(ledger, shelf, two)
    shelf.store.set_alias(MODEL, "champion", one)  # by somebody who read the row before
    assert look(shelf, ledger, aliases="follow", at=utc_now()) == {MODEL: Finding("project")}
    assert shelf.store.aliases(MODEL) == {"champion": two}
    assert len(ledger.history(MODEL)) == 2


def test_one_model_that_mlflow_does_not_know_keeps_no_other_from_its_alias(shelf: Shelf, ledger: Ledger) -> None:
    """The others are projected, and the look says that it was not complete."""
    version = shelf.add(100)
    ledger.move("absent", expected_revision=0, champion=1, actor="ann", reason="r")
    ledger.move(MODEL, expected_revision=0, champion=version, actor="ann", reason="r")
    with pytest.raises(Exception, match="MLflow"):
        look(shelf, ledger)
    assert shelf.store.aliases(MODEL) == {"champion": version}


def test_a_child_whose_leader_was_replaced_takes_nothing_in(shelf: Shelf, ledger: Ledger, home: Path) -> None:
    """Every write carries the token: neither a move nor evidence is made."""
    one, two = shelf.add(100), shelf.add(200)
    deploy(ledger, shelf, one)
    token = ledger.acquire(LEADER, "a", 0.0)
    assert token is not None
    assert ledger.acquire(LEADER, "b", 30.0) is not None
    plain(home).set_registered_model_alias(MODEL, "champion", str(two))
    for policy in ("follow", "revert"):
        with pytest.raises(LeaseLost):
            look(shelf, ledger, token=token, aliases=policy)
    assert len(ledger.history(MODEL)) == 1
    assert said(ledger) == []


def test_a_peek_sees_what_mlflow_has_without_importing_it(shelf: Shelf, home: Path, tmp_path: Path) -> None:
    """From the table of a database; where there is none it does not tell, and makes no file."""
    version = shelf.add(100)
    uri = f"sqlite:///{home / 'mlflow.db'}"
    assert peek(uri) == frozenset()
    plain(home).set_registered_model_alias(MODEL, "champion", str(version))
    assert peek(uri) == frozenset({(MODEL, "champion", str(version))})
    assert peek(f"sqlite:///{tmp_path / 'none.db'}") is None
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "text.db").write_text("no database")
    for other in (f"sqlite:///{tmp_path / 'text.db'}", "http://127.0.0.1:1", "databricks", "nonsense://x"):
        assert peek(other, seconds=0.5) is None, other
    code = f"import sys; from registry.mlflow_peek import peek; print(peek({uri!r}), 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == f"frozenset({{('toy', 'champion', '{version}')}}) False"


def test_the_worker_s_watch_takes_in_what_a_person_moved(shelf: Shelf, ledger: Ledger, home: Path) -> None:
    """A child after each row and after each foreign move, and none while nothing moves."""
    one, two = shelf.add(100), shelf.add(200)
    ledger.move(MODEL, expected_revision=0, champion=one, actor="ann", reason="by ann")
    token = ledger.acquire(LEADER, "a", 600.0)
    assert token is not None
    watch = AliasWatch(Places(home), LedgerPolicy(aliases="revert", alias_poll_s=0.1))
    client = plain(home)
    started: list[object] = []

    def tend() -> None:
        watch.tend(ledger.revision(), token=token, quiet=True)
        if watch._child is not None and watch._child not in started:
            started.append(watch._child)
        time.sleep(0.05)

    def tend_until(version: int) -> None:
        deadline = time.monotonic() + 120
        while not (aliased(client) == version and watch.idle):
            assert time.monotonic() < deadline, (home / "logs" / "aliases.txt").read_text()
            tend()

    tend_until(one)
    children = len(started)
    client.set_registered_model_alias(MODEL, "champion", str(two))
    tend_until(one)  # so soon after the row it is not taken for a decision, only put right
    assert len(started) > children
    children = len(started)
    for _ in range(20):
        tend()
    assert len(started) == children
    watch.stop()


def test_a_worker_that_ends_tells_of_the_last_move_first(shelf: Shelf, ledger: Ledger, home: Path) -> None:
    """A row written in the last moment, even while a child tells of the one before it, reaches MLflow."""
    one, two = shelf.add(100), shelf.add(200)
    ledger.move(MODEL, expected_revision=0, champion=one, actor="ann", reason="by ann")
    token = ledger.acquire(LEADER, "a", 600.0)
    assert token is not None
    watch = AliasWatch(Places(home), LedgerPolicy())
    watch.tend(ledger.revision(), token=token, quiet=True)
    ledger.move(MODEL, expected_revision=1, champion=two, actor="ann", reason="by ann")
    watch.settle(ledger.revision(), token=token, seconds=120.0)
    assert aliased(plain(home)) == two
    watch.stop()


def aliased(client: MlflowClient) -> int | None:
    found = client.get_registered_model(MODEL).aliases.get("champion")
    return int(found) if found is not None else None


def test_a_store_is_all_that_is_needed(shelf: Shelf) -> None:
    """`champions` names the models that have one."""
    store: Store = shelf.store
    shelf.add(100)
    assert store.champions() == {}
    store.set_alias(MODEL, "champion", 1)
    assert store.champions() == {MODEL: 1}
