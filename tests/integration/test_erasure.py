"""Erasing people from an installation: nothing of them is left, all others are as before, and it is proven."""

from __future__ import annotations

import json
import os
import pkgutil
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitoring.erasure import spools
from monitoring.erasure.lake_files import KINDS
from monitoring.intake.blocks import Answered
from monitoring.intake.ids import uuid7
from monitoring.intake.shipper import ship_once
from monitoring.lake.lake import Key
from monitoring.lake.tombstones import Tombstone
from perene.erasure import receipt
from perene.erasure.erase import Asked, erase, rehearse
from perene.erasure.places import Place, all_places
from perene.erasure.verify import verify
from perene.erasure.work import unfinished
from registry.errors import ConfigInvalid, ModelUnknown, StoreUnavailable
from tests.integration.erasure_home import CONTRACT, DAY, MODEL, NOON, People, canary, move_in, settle_in, subject
from tests.integration.s3_server import S3

FULL = os.environ.get("PERENE_CHAOS") == "full"
PLANTED, ERASED = (1_000, 100) if FULL else (40, 4)


@pytest.fixture(scope="module")
def village(tmp_path_factory: pytest.TempPathFactory) -> People:
    return settle_in(tmp_path_factory.mktemp("village") / "home", 8)


@pytest.fixture
def people(tmp_path: Path, village: People) -> Iterator[People]:
    made = move_in(village, tmp_path / "home")
    yield made
    made.close()


def rows_of(people: People) -> Counter[tuple[str, str]]:
    """Rows in the lake by kind and id, each (boot, seq) once."""
    people.ship()
    return Counter((k, i) for k in KINDS for i in people.lake.read(MODEL, k).column("_id").to_pylist())


@pytest.mark.timeout(1_800 if FULL else 300)
def test_erased_people_are_nowhere_and_all_others_are_as_before(tmp_path: Path) -> None:
    """Promise 21: lake, spools, their logs, kept answers, reports and logs hold nothing; each receipt verifies."""
    people = move_in(settle_in(tmp_path / "planted", PLANTED), tmp_path / "home")
    gone = range(0, PLANTED, PLANTED // ERASED)
    assert len(list(gone)) == ERASED
    assert {word for _, word in people.hits(gone)} >= {subject(0), canary(0), *people.ids[0]}
    for number in gone:
        done = erase(people.settings, Asked(MODEL, subject(number)))
        assert done.receipt["predictions"] == len(people.ids[number])
    assert people.hits(gone) == []
    for path in sorted((people.home / "erasures").glob("*.json")):
        assert verify(people.settings, path) == []
    people.close()
    left = rows_of(people)
    assert people.hits(gone) == []
    kept = {i for n, ids in people.ids.items() if n not in set(gone) for i in ids}
    assert left == Counter({(kind, i): 1 for kind in ("prediction", "shadow", "label") for i in kept} | _alone(left))


def _alone(left: Counter[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Labels that belong to nobody."""
    known = {i for kind, i in left if kind == "prediction"}
    return {(kind, i): 1 for kind, i in left if kind == "label" and i not in known}


@pytest.mark.parametrize("skipped", ["spool", "lake", "idempotency", "jobs", "reports", "logs"])
def test_an_erasure_that_skips_one_place_is_caught(people: People, skipped: str) -> None:
    """The control: the same search and the same receipt tell of what was left."""
    places: list[Place] = [p for p in all_places(people.home, people.lake, MODEL) if p.name != skipped]
    done = erase(people.settings, Asked(MODEL, subject(3)), places=places)
    problems = verify(people.settings, done.path)
    assert problems
    assert all(problem.startswith(f"{skipped}:") for problem in problems)
    assert people.hits([3])


def test_a_rehearsal_names_everything_and_changes_nothing(people: People) -> None:
    """`--dry-run` finds the rows of each place."""
    before = {path: path.read_bytes() for path in people.home.rglob("*.parquet")}
    items = rehearse(people.settings, Asked(MODEL, subject(3)))
    assert {item.place for item in items} == {"spool", "lake", "idempotency", "jobs", "reports", "logs"}
    assert {path: path.read_bytes() for path in people.home.rglob("*.parquet")} == before
    assert len(people.hits([3])) > 10


def test_what_is_on_its_way_when_the_erasure_ends_never_arrives(people: People) -> None:
    """A spool of another machine ships rows of before, and labels of them: both are left out; new traffic is kept."""
    other = People(people.home.parent / "other", 1)
    (other.home / "keys").mkdir(parents=True)
    (other.home / "keys" / "subjects").write_bytes((people.home / "keys" / "subjects").read_bytes())
    spool = other.open()
    other.answer(spool, [3, 4], at=NOON + 2 * DAY, label=False)
    done = erase(people.settings, Asked(MODEL, subject(3)))
    ship_once(other.home / "spool", people.lake, min_rows=1, max_age_s=-1.0, now=NOON * 2)
    other.answer(spool, [], at=NOON)
    assert verify(people.settings, done.path) == []
    assert people.hits([3]) == []
    found = people.lake.read(MODEL, "prediction").column("_id").to_pylist()
    assert set(other.ids[4]) <= set(found)
    assert not set(other.ids[3]) & set(found)
    shadows = people.lake.read(MODEL, "shadow").column("_id").to_pylist()
    assert not set(other.ids[3]) & set(shadows)
    other.answer(spool, [3], at=done.receipt["finished"] + 5)
    ship_once(other.home / "spool", people.lake, min_rows=1, max_age_s=-1.0, now=NOON * 2)
    assert other.ids[3][-1] in people.lake.read(MODEL, "prediction").column("_id").to_pylist()
    other.close()


def test_a_merge_that_read_the_files_before_does_not_bring_them_back(people: People) -> None:
    """The tombstone is looked for after the merged file is written, too."""
    lake = people.lake
    files = lake.files(MODEL, "prediction")
    stone = Tombstone(MODEL, at=NOON + 99 * DAY, subjects=[people.digest(subject(3))])
    written = lake.storage.write
    into = files[0].parent / "merged-x.parquet"

    def late(key: object, data: object) -> None:
        written(key, data)  # type: ignore[arg-type]
        if key == into and not lake.tombstones.names(MODEL):
            lake.tombstones.add(stone)

    lake.storage.write = late  # type: ignore[method-assign]
    lake.merge(MODEL, "prediction", files, into)
    assert people.digest(subject(3)) not in lake.read(MODEL, "prediction", files=[into]).column("_entity").to_pylist()


def test_one_prediction_goes_and_its_neighbours_stay(people: People) -> None:
    """Of a request of three rows the middle one, by its id; numbers of the others stay theirs."""
    middle = people.ids[3][6]
    people.answer(people.spools[-1], [3], at=NOON + 8 * DAY, rows=3)
    waiting = people.ids[3][-2]
    before = rows_before(people)
    for identifier in (middle, waiting):
        done = erase(people.settings, Asked(MODEL, prediction_id=identifier))
        assert done.receipt["predictions"] == 1
        assert verify(people.settings, done.path) == []
    people.close()
    people.ship()
    left = people.lake.read(MODEL, "prediction", columns=["_id", "_boot", "_seq", "x"]).to_pylist()
    assert {r["_id"] for r in left} == {i for ids in people.ids.values() for i in ids} - {middle, waiting}
    assert all(before[r["_id"]] == (r["_boot"], r["_seq"], r["x"]) for r in left if r["_id"] in before)


def rows_before(people: People) -> dict[str, tuple[str, int, float]]:
    rows = people.lake.read(MODEL, "prediction", columns=["_id", "_boot", "_seq", "x"]).to_pylist()
    return {r["_id"]: (r["_boot"], r["_seq"], r["x"]) for r in rows}


def test_a_subject_that_nobody_knows_gets_a_receipt_of_nothing(people: People) -> None:
    """And so does the second erasure of somebody; an unknown model is refused."""
    done = erase(people.settings, Asked(MODEL, "nobody@example.org"))
    assert (done.receipt["predictions"], done.receipt["removed"]) == (0, {})
    first = erase(people.settings, Asked(MODEL, subject(2)))
    again = erase(people.settings, Asked(MODEL, subject(2)))
    assert first.receipt["predictions"] == len(people.ids[2])
    assert again.receipt["removed"] == {}
    assert [verify(people.settings, d.path) for d in (done, first, again)] == [[], [], []]
    with pytest.raises(ModelUnknown):
        erase(people.settings, Asked("shoop", subject(2)))


BAD = [
    Asked(MODEL),
    Asked(MODEL, ""),
    Asked(MODEL, "  "),
    Asked(MODEL, "*"),
    Asked(MODEL, "a%"),
    Asked(MODEL, "a", "b"),
    Asked(MODEL, prediction_id="1"),
]


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_one_person_is_refused(bad: Asked) -> None:
    """Nothing, a pattern, both, no id."""
    with pytest.raises(ConfigInvalid):
        bad.check()
    Asked(MODEL, "100%").check(literal=True)


def test_a_changed_receipt_is_told_from_a_true_one(people: People) -> None:
    """By its digest; one that was sealed anew, by the ledger and the chain."""
    done = erase(people.settings, Asked(MODEL, subject(2)))
    forged = json.loads(done.path.read_text())
    forged["predictions"] = 1
    done.path.write_text(json.dumps(forged))
    with pytest.raises(ConfigInvalid, match="changed"):
        verify(people.settings, done.path)
    del forged["sha256"]
    done.path.write_text(json.dumps(receipt.seal({**forged, "previous": "f" * 64})))
    told = " ".join(verify(people.settings, done.path))
    assert "ledger" in told
    assert "chain" in told


def test_a_restored_backup_makes_the_receipt_fail(people: People) -> None:
    """A file that is what it was before."""
    saved = {path: path.read_bytes() for path in (people.home / "events").rglob("kind=prediction/**/*.parquet")}
    done = erase(people.settings, Asked(MODEL, subject(2)))
    path, data = next(iter(saved.items()))
    path.write_bytes(data)
    assert any("what it was before" in problem for problem in verify(people.settings, done.path))


def test_a_shipper_that_does_not_pause_ends_it_and_a_repeat_finishes(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is begun before both pause."""
    with spools.held(people.home / "upkeep" / "lock", "nobody"):
        monkeypatch.setattr("perene.erasure.erase.UPKEEP_S", 0.05)
        with pytest.raises(StoreUnavailable, match="does not pause"):
            erase(people.settings, Asked(MODEL, subject(2)))
    assert unfinished(people.home / "erasures") == []
    assert people.lake.tombstones.names(MODEL) == []
    done = erase(people.settings, Asked(MODEL, subject(2)))
    assert unfinished(people.home / "erasures") == []
    assert verify(people.settings, done.path, subject=subject(2)) == []


def test_names_with_accents_are_found_however_they_were_sent(people: People) -> None:
    """A header's bytes are read as Latin-1; composed and decomposed letters look the same."""
    name = "Zoë@example.org"
    sent = [name, name.encode().decode("latin-1"), unicodedata.normalize("NFD", name)]
    ids = [uuid7() for _ in sent]
    for i, text in zip(ids, sent, strict=True):
        row = [(1.0, "e", "p")]
        people.spools[-1].append(Answered(CONTRACT, 1, "champion", NOON, NOON, text, "", 1.0, [i], row, [1.0], None))
    done = erase(people.settings, Asked(MODEL, name))
    assert done.receipt["predictions"] == len(sent)


def test_the_command_erases_and_verifies(people: People) -> None:
    """As people call it: the subject on stdin, a receipt, and its verification, which fails once rows are back."""
    home = ["--home", str(people.home)]
    command = [sys.executable, "-m", "perene.cli", "erase", *home, "--json"]
    who = ["--model", MODEL, "--subject", "-"]

    def run(*more: str) -> tuple[int, dict[str, object]]:
        made = subprocess.run([*command, *more], input=subject(5) + "\n", capture_output=True, text=True, check=False)
        assert subject(5) not in made.stdout + made.stderr
        return made.returncode, json.loads(made.stdout or "{}")

    code, made = run(*who)
    assert (code, made["predictions"]) == (0, len(people.ids[5]))
    assert people.hits([5]) == []
    assert run("--verify", str(made["receipt"]))[1] == {"ok": True, "problems": []}
    people.answer(people.spools[-1], [5], at=NOON)
    assert run("--verify", str(made["receipt"]))[0] == 1
    assert run("--model", MODEL)[0] == 2


class Crash(BaseException):
    """Stands for kill -9: nothing may catch it."""


STEPS = (
    ("perene.erasure.work.Work", "_append"),
    ("perene.erasure.work.Work", "end"),
    ("monitoring.lake.storage.Storage", "write"),
    ("monitoring.lake.storage.Storage", "remove"),
    ("monitoring.erasure.spools", "take_out"),
    ("monitoring.erasure.spools", "scrub"),
    ("registry.ledger.Ledger", "record_evidence"),
    ("perene.erasure.receipt", "write"),
)


def crash_at(patch: pytest.MonkeyPatch, last: int) -> list[int]:
    """Whatever changes something counts; before the step of this number everything ends."""
    done = [0]

    def install(owner: str, name: str) -> None:
        before = pkgutil.resolve_name(f"{owner}.{name}")

        def step(*args: Any, **kwargs: Any) -> Any:
            done[0] += 1
            if done[0] == last:
                raise Crash
            return before(*args, **kwargs)

        patch.setattr(f"{owner}.{name}", step)

    for owner, name in STEPS:
        install(owner, name)
    return done


def test_ended_at_any_step_a_repeat_finishes_and_counts_everything(village: People, tmp_path: Path) -> None:
    """The receipt of the second attempt is that of one that was never ended."""
    with pytest.MonkeyPatch.context() as patch:
        calm = move_in(village, tmp_path / "calm")
        done = crash_at(patch, 0)
        wanted = erase(calm.settings, Asked(MODEL, subject(3))).receipt
        calm.close()
    steps = range(1, done[0] + 1) if FULL else [1, 2, *range(5, done[0], 13), done[0] - 1, done[0]]
    for step in steps:
        people = move_in(village, tmp_path / f"{step}")
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, step)
            with pytest.raises(Crash):
                erase(people.settings, Asked(MODEL, subject(3)))
        again = erase(people.settings, Asked(MODEL, subject(3)))
        assert again.receipt["predictions"] == wanted["predictions"], step
        assert again.receipt["removed"] == wanted["removed"], step
        assert verify(people.settings, again.path) == [], step
        assert people.hits([3]) == [], step
        people.close()


def test_a_lake_in_an_object_store_is_erased_too(
    village: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same through a real S3 server: files are put anew or deleted."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server = S3()
    try:
        people = move_in(village, tmp_path / "home")
        people.url = server.url("people")
        for path in sorted((people.home / "events").rglob("*.parquet")):
            people.lake.storage.write(Key(path.relative_to(people.home / "events")), path.read_bytes())
        shutil.rmtree(people.home / "events")
        done = erase(people.settings, Asked(MODEL, subject(3)))
        assert done.receipt["predictions"] == len(people.ids[3])
        assert verify(people.settings, done.path) == []
        left = {i for kind in KINDS for i in people.lake.read(MODEL, kind).column("_id").to_pylist()}
        assert not left & set(people.ids[3])
        assert left >= set(people.ids[4][:-2])
        people.close()
    finally:
        server.stop()


def test_what_the_shipper_leaves_out_after_a_crash_is_counted(people: People) -> None:
    """Ended right after its tombstone: the rows that waited never reach the lake, and are in the next receipt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perene.erasure.erase._go", crash)
        with pytest.raises(Crash):
            erase(people.settings, Asked(MODEL, subject(3)))
    people.ship()
    assert set(people.ids[3][-2:]).isdisjoint(people.lake.read(MODEL, "prediction").column("_id").to_pylist())
    done = erase(people.settings, Asked(MODEL, subject(3)))
    assert done.receipt["predictions"] == len(people.ids[3])
    assert erase(people.settings, Asked(MODEL, subject(3))).receipt["predictions"] == 0


def crash(*_: object) -> None:
    raise Crash


def test_a_full_disk_ends_it_with_the_fix_and_a_repeat_finishes(people: People) -> None:
    """What the system says, in our words; an older receipt that was damaged stops no new one."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    first = erase(people.settings, Asked(MODEL, subject(1)))
    first.path.write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monitoring.lake.storage.Storage._write_local", full)
        with pytest.raises(StoreUnavailable, match="No space left"):
            erase(people.settings, Asked(MODEL, subject(3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perene.erasure.work.Work._append", full)
        with pytest.raises(StoreUnavailable, match="broken off: No space left"):
            erase(people.settings, Asked(MODEL, subject(3)))
    done = erase(people.settings, Asked(MODEL, subject(3)))
    assert verify(people.settings, done.path) == []
    assert people.hits([3]) == []
