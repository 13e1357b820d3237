"""`perene.api.promote`, `approve` and `rollback` on a real MLflow store and a real ledger."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from perene import api
from perene.config import Settings
from registry import approvals
from registry.bundle import read_bundle
from registry.errors import (
    BundleCorrupt,
    LedgerConflict,
    NameInvalid,
    NotAllowed,
    PereneError,
    StoreUnavailable,
    VersionUnknown,
)
from registry.ledger import Ledger
from tests.conftest import Toy
from tests.integration.registered_toy import MODEL, Shelf


@pytest.fixture
def shelf(home: Path, toy_bundle: Path, tmp_path: Path) -> Shelf:
    return Shelf(home, toy_bundle, tmp_path)


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    with closing(Ledger.open(f"sqlite:///{home / 'ledger.db'}")) as opened:
        yield opened


def champions(ledger: Ledger) -> list[int]:
    return [row.champion for row in ledger.history(MODEL)]


def test_a_sound_version_takes_over_and_the_aliases_follow(shelf: Shelf, ledger: Ledger) -> None:
    """The row first, then MLflow's alias; once more is a conflict, and a rollback needs no MLflow."""
    settings = shelf.settings()
    one, two = shelf.add(100), shelf.add(200)
    api.promote(MODEL, one, reason="first", settings=settings)
    moved = api.promote(MODEL, two, reason="better", by="ann", settings=settings)
    assert (moved.champion, moved.revision, moved.actor, moved.reason) == (two, 2, "ann", "better")
    assert shelf.store.aliases(MODEL) == {"champion": two}
    with pytest.raises(LedgerConflict, match="already is the champion"):
        api.promote(MODEL, two, reason="again", settings=settings)
    assert api.rollback(MODEL, settings=settings).champion == one
    api.project_aliases(settings, MODEL)
    assert shelf.store.aliases(MODEL) == {"champion": one}
    assert ledger.verify() == []


def test_versions_that_are_not_certified_or_not_loadable_are_refused(shelf: Shelf, ledger: Ledger) -> None:
    """Unknown, without a certificate, refused by it, lying, damaged, missing: each by name, and nothing is moved."""
    settings = shelf.settings()
    api.promote(MODEL, shelf.add(100), reason="first", settings=settings)
    damaged = shelf.add(300)
    with (shelf.files(damaged) / "model.onnx").open("ab") as file:
        file.write(b"x")
    missing = shelf.add(400)
    shutil.rmtree(shelf.files(missing))
    exchanged = shelf.add(500)
    place = shelf.files(exchanged)
    shutil.rmtree(place)
    shutil.copytree(shelf.files(1), place)
    cases: list[tuple[int, type[PereneError], str]] = [
        (99, VersionUnknown, "no version 99"),
        (shelf.add_plain(), NotAllowed, "no certificate"),
        (shelf.add(600, verdict="refused"), NotAllowed, "says refused"),
        (shelf.add_lying(), BundleCorrupt, "refused"),
        (damaged, BundleCorrupt, "model.onnx"),
        (missing, PereneError, "."),
        (exchanged, BundleCorrupt, "not the one its tag names"),
    ]
    for version, kind, words in cases:
        with pytest.raises(kind, match=words):
            api.promote(MODEL, version, reason="try", breaking=True, settings=settings)
    assert champions(ledger) == [1]
    assert shelf.store.aliases(MODEL) == {"champion": 1}


def test_callers_that_would_break_stop_a_promotion_unless_it_says_so(shelf: Shelf, ledger: Ledger) -> None:
    """The list is in the refusal, and in the ledger's reason of who goes ahead."""
    settings = shelf.settings()
    lenient, strict = shelf.add_lenient(100), shelf.add(200)
    api.promote(MODEL, lenient, reason="first", settings=settings)
    with pytest.raises(NotAllowed, match="column 'carrier' no longer accepts null") as caught:
        api.promote(MODEL, strict, reason="stricter", settings=settings)
    assert "--breaking" in caught.value.hint
    moved = api.promote(MODEL, strict, reason="stricter", breaking=True, settings=settings)
    assert moved.reason == "stricter (breaking: column 'carrier' no longer accepts null)"
    # the other way nobody breaks
    assert api.promote(MODEL, lenient, reason="back", settings=settings).reason == "back"
    assert champions(ledger) == [lenient, strict, lenient]


def test_a_champion_that_cannot_be_read_needs_breaking(shelf: Shelf) -> None:
    """What its callers send is not known then."""
    settings = shelf.settings()
    one, two = shelf.add(100), shelf.add(200)
    api.promote(MODEL, one, reason="first", settings=settings)
    shutil.rmtree(shelf.files(one))
    with pytest.raises(NotAllowed, match="contract of version 1 cannot be read"):
        api.promote(MODEL, two, reason="away from it", settings=settings)
    assert api.promote(MODEL, two, reason="away from it", breaking=True, settings=settings).champion == two


def test_what_serving_has_checked_is_not_fetched_again(shelf: Shelf) -> None:
    """With the digest of its tag and its golden rows run; another bundle in the cache counts for nothing."""
    settings = shelf.settings()
    version = shelf.add(100)
    cached = shelf.home / "cache" / "bundles" / MODEL / str(version)
    shutil.copytree(shelf.files(version), cached)
    stored = shelf.files(version)
    shutil.move(stored, shelf.scratch / "away")
    with pytest.raises(PereneError):
        api.promote(MODEL, version, reason="golden rows never ran", settings=settings)
    cached.with_name(f"{version}.golden.json").write_text("[]")
    assert api.promote(MODEL, version, reason="they did", settings=settings).champion == version
    other = shelf.add(200)
    shutil.copytree(cached, cached.with_name(str(other)))
    cached.with_name(f"{other}.golden.json").write_text("[]")
    assert read_bundle(cached.with_name(str(other))).path.name == str(other)
    shutil.rmtree(shelf.files(other))
    with pytest.raises(PereneError):
        api.promote(MODEL, other, reason="the cache holds another one", settings=settings)


def test_approvals_by_others_are_asked_for_and_counted(shelf: Shelf, ledger: Ledger) -> None:
    """Two of two, by people who did not register it, for the content that is promoted; all in the hash chain."""
    settings = shelf.settings(approvals=2)
    version = shelf.add(100)
    digest = read_bundle(shelf.files(version)).digest
    approvals.record(ledger, MODEL, version, kind="registered", actor="ann", digest=digest)
    with pytest.raises(NotAllowed, match="ann registered version 1"):
        api.approve(MODEL, version, by="ann", settings=settings)
    assert api.approve(MODEL, version, by="bob", reason="read it", settings=settings)["approved_by"] == ["bob"]
    api.approve(MODEL, version, by="bob", settings=settings)
    with pytest.raises(NotAllowed, match="1 of 2 approvals are missing, by people other than ann") as caught:
        api.promote(MODEL, version, reason="try", by="bob", settings=settings)
    assert "perene approve toy 1" in caught.value.hint
    approvals.record(ledger, MODEL, version, kind="approval", actor="dora", digest="of something else")
    with pytest.raises(NotAllowed, match="1 of 2"):
        api.promote(MODEL, version, reason="try", by="bob", settings=settings)
    assert api.approve(MODEL, version, by="cy", settings=settings)["approved_by"] == ["bob", "cy"]
    assert api.promote(MODEL, version, reason="agreed", by="ann", settings=settings).actor == "ann"
    rows = ledger.evidence(MODEL, "approval")
    assert [(row.body["actor"], row.body["version"]) for row in rows] == [("cy", 1), ("dora", 1), ("bob", 1)]
    assert rows[-1].body == {"version": 1, "actor": "bob", "digest": digest, "reason": "read it"}
    assert ledger.verify() == []


def test_who_registered_a_version_may_not_promote_it(shelf: Shelf, ledger: Ledger) -> None:
    """Nor may anybody while it is not known who did."""
    settings = shelf.settings(separation_of_duties=True)
    version = shelf.add(100)
    with pytest.raises(NotAllowed, match="nobody knows who registered it"):
        api.promote(MODEL, version, reason="try", by="bob", settings=settings)
    approvals.record(ledger, MODEL, version, kind="registered", actor="ann", digest="d")
    with pytest.raises(NotAllowed, match="ann registered it"):
        api.promote(MODEL, version, reason="try", by="ann", settings=settings)
    assert api.promote(MODEL, version, reason="by another", by="bob", settings=settings).actor == "bob"


def test_logging_a_model_says_who_did_and_waits_where_duties_are_separate(
    regression: Toy, shelf: Shelf, ledger: Ledger
) -> None:
    """The first version is deployed by whoever logs it, unless that is what the policy forbids."""
    settings = shelf.settings(separation_of_duties=True)
    steps: dict[str, str] = {}
    version = api.log_model(
        regression.estimator, regression.X, regression.y, name=MODEL, settings=settings, progress=steps.__setitem__
    )
    [row] = ledger.evidence(MODEL, "registered")
    digest = read_bundle(shelf.files(version.version)).digest
    assert row.body == {"version": 1, "actor": api.actor(), "digest": digest}
    assert ledger.deployment(MODEL) is None
    assert "may not promote it as well" in steps["deployment"]
    assert api.promote(MODEL, 1, reason="looked at it", by="bob", settings=settings).champion == 1
    api.log_model(regression.estimator, regression.X, regression.y, name=MODEL, settings=settings)
    assert len(ledger.evidence(MODEL, "registered")) == 1


PROMOTE = """
import sys
from pathlib import Path
from perene import api
from perene.config import Settings
from registry import approvals
from registry.errors import LedgerConflict
settings = Settings(home=Path(sys.argv[1]))
examine = api.examiner

def slowly(*parts):
    made = examine(*parts)
    print("decided", flush=True)
    sys.stdin.readline()
    return made

api.examiner = slowly
try:
    print(api.promote("toy", int(sys.argv[2]), reason="mine", settings=settings).champion)
except LedgerConflict as error:
    print("conflict", error.message)
"""


def test_of_two_processes_that_promote_at_once_one_is_told(shelf: Shelf, ledger: Ledger) -> None:
    """Both have read the same row when they are let go; each acts on what it saw, or not at all."""
    api.promote(MODEL, shelf.add(100), reason="first", settings=shelf.settings())
    versions = [shelf.add(200), shelf.add(300)]
    command = [sys.executable, "-c", PROMOTE, str(shelf.home)]
    both = [
        subprocess.Popen([*command, str(v)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for v in versions
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "decided\n"
    said = []
    for process in both:
        out, _ = process.communicate("go\n", timeout=120)
        said.append(out.strip())
    winner, loser = said
    assert winner == str(versions[0])
    assert loser == "conflict the deployment of 'toy' moved meanwhile"
    assert champions(ledger) == [1, versions[0]]


def test_bad_input_is_refused_before_anything_moves(
    shelf: Shelf, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that climb, numbers that are no version, an MLflow that is not there or is something else."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # by itself it tries for four minutes
    settings = shelf.settings()
    version = shelf.add(100)
    for name in ("../toy", "toy/../../x", "", "TOY", "a" * 64):
        for call in (
            lambda name=name: api.promote(name, version, reason="r", settings=settings),
            lambda name=name: api.approve(name, version, settings=settings),
            lambda name=name: api.rollback(name, settings=settings),
        ):
            with pytest.raises(NameInvalid):
                call()
    for number in (0, -1, 2**40):
        with pytest.raises(VersionUnknown):
            api.promote(MODEL, number, reason="r", settings=settings)
    (tmp_path / "text.db").write_text("this is no database " * 100)
    for uri in (f"sqlite:///{tmp_path}/text.db", "http://127.0.0.1:1"):
        away = Settings(home=shelf.home, tracking_uri=uri)
        with pytest.raises(StoreUnavailable) as caught:
            api.promote(MODEL, version, reason="r", settings=away)
        assert "MLflow" in caught.value.message
    assert ledger.history(MODEL) == []
    assert ledger.evidence(MODEL) == []


def test_breaking_and_approve_through_the_command(shelf: Shelf, ledger: Ledger) -> None:
    """Exit codes and JSON of the same refusals, as a process."""
    lenient, strict = shelf.add_lenient(100), shelf.add(200)
    api.promote(MODEL, lenient, reason="first", settings=shelf.settings())
    home = ("--home", str(shelf.home), "--json")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "perene.cli", *arguments, *home]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    refused = run("promote", MODEL, str(strict))
    assert (refused.returncode, refused.stdout) == (1, "")
    error = json.loads(refused.stderr.splitlines()[-1])["error"]
    assert (error["code"], error["where"]) == ("not_allowed", "contract")
    approved = run("approve", MODEL, str(strict), "--reason", "read it")
    assert approved.returncode == 0
    assert json.loads(approved.stdout)["approved_by"] == [api.actor()]
    done = run("promote", MODEL, str(strict), "--breaking")
    assert json.loads(done.stdout) == {"model": MODEL, "champion": strict, "revision": 2}
    assert "breaking: column 'carrier'" in ledger.history(MODEL)[-1].reason
