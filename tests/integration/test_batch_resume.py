"""A job that was interrupted goes on where it stopped, if and only if it is the same job."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.bundle import read_bundle
from serving.batch.job import Asked, score
from serving.batch.journal import Journal, Model
from serving.batch.parts import Parts
from serving.batch.refusals import BatchRefused
from serving.batch.rows import Scorer
from serving.settings import ServingSettings
from tests.integration.batch_files import job, left, read, toy_rows, write

ROWS = 10_000
PART = 1_000


class Pulled(BaseException):
    """Somebody pulls the plug, as far as that can be done to one's own process."""


@pytest.fixture(params=["parquet", "csv"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    rows = toy_rows(ROWS)
    for n in range(0, ROWS, 1_500):
        rows[n]["hour"] = None
    return write(tmp_path / f"in.{request.param}", rows)


def stop_at(rows: int) -> Callable[[int, int, int], None]:
    def report(_reached: int, _total: int, read_so_far: int) -> None:
        if read_so_far >= rows:
            raise Pulled

    return report


def stopped(bundle: Path, file: Path, out: Path, at: int, *, version: int = 1, **options: Any) -> Path:
    """A job that stopped after so many rows; returns its folder."""
    found = read_bundle(bundle)
    asked = Asked(file, out, **_usual(options))
    with Scorer(found, ServingSettings()) as scorer, pytest.raises(Pulled):
        score(asked, scorer, Model("toy", version, found.digest), report=stop_at(at))
    return out.with_name(f".{out.name}.parts")


def again(bundle: Path, file: Path, out: Path, **options: Any) -> Any:
    return job(bundle, file, out, **_usual(options))


def _usual(options: dict[str, Any]) -> dict[str, Any]:
    return {"errors": "skip", "keep": ("id",), "rows_per_part": PART} | options


def whole(bundle: Path, file: Path, folder: Path, ending: str) -> tuple[bytes, bytes]:
    """What a job gives that nothing stops, and its file of errors."""
    out = folder / f"whole{ending}"
    again(bundle, file, out)
    return out.read_bytes(), (folder / "whole.errors.csv").read_bytes()


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_the_output_is_byte_for_byte_that_of_a_job_that_was_never_stopped(
    offsets: dict[int, Path], file: Path, tmp_path: Path, ending: str
) -> None:
    """Stopped three times, with rows that do not fit; the summary tells of all runs."""
    expected = whole(offsets[1], file, tmp_path, ending)
    out = tmp_path / f"out{ending}"
    for at in (2_500, 2_600, 7_777):
        folder = stopped(offsets[1], file, out, at)
        assert not out.exists()
    assert 6 <= len(Journal(folder).parts) <= 8
    done = again(offsets[1], file, out)
    assert (done.rows, done.written, done.rejected) == (ROWS, ROWS - 7, 7)
    assert 6_000 - 7 <= done.resumed <= 8_000
    assert expected == (out.read_bytes(), (tmp_path / "out.errors.csv").read_bytes())
    assert not folder.exists()


def test_another_job_does_not_go_on_and_says_how_it_would(offsets: dict[int, Path], tmp_path: Path) -> None:
    """Another file, version or option: named, with the way back and the way anew; what was done is kept."""
    rows = toy_rows(ROWS)
    file, out = write(tmp_path / "in.csv", rows), tmp_path / "out.csv"
    folder = stopped(offsets[1], file, out, 5_000)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refused(words: str, hint: str, bundle: Path = offsets[1], **options: Any) -> None:
        with pytest.raises(BatchRefused, match=words) as caught:
            again(bundle, file, out, **options)
        assert hint in caught.value.hint
        assert f"delete {folder} to begin anew" in caught.value.hint
        assert before == {path.name: path.read_bytes() for path in folder.iterdir()}

    refused("began with another --keep: id", "give that one", keep=())
    refused("began with another --errors: skip", "give that one", errors="null")
    refused("began with another --rows-per-part: 1000", "give that one", rows_per_part=77)
    refused("began with another serving.decoding: strict", "give that one", decoding="coerce")
    refused("began with version 1 of 'toy'", "--model toy@1 goes on with it", offsets[2], version=2)
    refused("began with version 1 of 'toy' .*not with version 1", "delete", offsets[2])
    kept = file.stat()
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns + 1))
    refused("not the file that this job began with: other size, time or content", "put that file back")
    data = file.read_bytes()
    file.write_bytes(data[:-2] + b"!\n")
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    refused("not the file that this job began with", "put that file back")
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    file.write_bytes(data)
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert again(offsets[1], file, out).written == ROWS


def test_parts_that_rotted_are_made_again(offsets: dict[int, Path], file: Path, tmp_path: Path) -> None:
    """A changed byte, a missing part, a line that a crash cut off, files that no line names."""
    expected = whole(offsets[1], file, tmp_path, ".csv")
    for n, spoil in enumerate((_flip, _remove, _cut, _litter, _empty)):
        out = tmp_path / f"out-{n}.csv"
        folder = stopped(offsets[1], file, out, 6_000)
        spoil(folder)
        again(offsets[1], file, out)
        assert expected == (out.read_bytes(), (tmp_path / f"out-{n}.errors.csv").read_bytes()), spoil.__name__


def _flip(folder: Path) -> None:
    part = folder / "000003.rows"
    data = bytearray(part.read_bytes())
    data[100] ^= 1
    part.write_bytes(data)


def _remove(folder: Path) -> None:
    (folder / "000001.errors").unlink()


def _cut(folder: Path) -> None:
    os.truncate(folder / "journal", (folder / "journal").stat().st_size - 10)


def _litter(folder: Path) -> None:
    (folder / "000099.rows").write_bytes(b"half")
    (folder / "000004.rows.new").write_bytes(b"half")
    with (folder / "journal").open("ab") as file:
        file.write(b'{"type":"part","data":{"na')


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize("gone", ["output", "errors", "parts", "journal"])
def test_a_crash_while_publishing_is_finished(
    offsets: dict[int, Path], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """Before, between and after the two names, and while the folder is cleared away."""
    expected = whole(offsets[1], file, tmp_path, ".parquet")
    out = tmp_path / "out.parquet"
    rename, unlink = os.rename, Path.unlink

    def pulled_rename(source: Any, target: Any) -> None:
        if {"output": out, "errors": tmp_path / "out.errors.csv"}.get(gone) == target:
            raise Pulled
        rename(source, target)

    def pulled_unlink(path: Path, missing_ok: bool = False) -> None:
        if (gone == "parts" and path.name == "000005.rows") or (gone == "journal" and path.name == "journal"):
            raise Pulled
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", pulled_rename)
        patch.setattr(Path, "unlink", pulled_unlink)
        with pytest.raises(Pulled):
            again(offsets[1], file, out)
    done = again(offsets[1], file, out)
    assert (done.rows, done.written, done.resumed) == (ROWS, ROWS - 7, ROWS - 7)
    assert expected == (out.read_bytes(), (tmp_path / "out.errors.csv").read_bytes())
    assert not out.with_name(f".{out.name}.parts").exists()


def test_somebody_elses_file_of_that_name_is_not_written_over(
    offsets: dict[int, Path], file: Path, tmp_path: Path
) -> None:
    """It came while the job was interrupted; the work is kept."""
    out = tmp_path / "out.csv"
    folder = stopped(offsets[1], file, out, 5_000)
    out.write_text("mine")
    with pytest.raises(BatchRefused, match="exists already"):
        again(offsets[1], file, out)
    assert out.read_text() == "mine"
    out.unlink()
    assert len(Journal(folder).parts) >= 4
    assert again(offsets[1], file, out).resumed > 0


def test_two_processes_do_not_work_on_one_output(offsets: dict[int, Path], tmp_path: Path) -> None:
    """The second is told; the folder is free again when the first has ended, however it ended."""
    file, out = write(tmp_path / "in.csv", toy_rows(50)), tmp_path / "out.csv"
    folder = tmp_path / ".out.csv.parts"
    folder.mkdir()
    other = os.open(folder, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(BatchRefused, match="another process writes"):
        again(offsets[1], file, out)
    os.close(other)
    again(offsets[1], file, out)
    assert left(tmp_path) == {"in.csv", "out.csv"}


def unsynced(offsets: dict[int, Path], folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
    """Names that files got before their bytes were on disk, in a whole job; every call is carried out."""
    synced: set[tuple[int, int, int]] = set()
    early: list[str] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        fsync(handle)
        found = os.fstat(handle)
        synced.add((found.st_dev, found.st_ino, found.st_size))

    def checked(rename: Callable[..., None]) -> Callable[..., None]:
        def call(source: Any, target: Any) -> None:
            found = os.stat(source)
            if (found.st_dev, found.st_ino, found.st_size) not in synced:
                early.append(Path(target).name)
            rename(source, target)

        return call

    if os.fsync.__name__ == "fsync":
        patch.setattr(os, "fsync", noted)
    patch.setattr(os, "rename", checked(os.rename))
    patch.setattr(os, "replace", checked(os.replace))
    rows = toy_rows(3_000)
    rows[7]["hour"] = None
    again(offsets[1], write(folder / "in.csv", rows), folder / "out.parquet")
    assert len(read(folder / "out.parquet")) == 2_999
    return early


def test_no_file_gets_its_name_before_it_is_on_disk(
    offsets: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts, errors and the output: a power cut leaves what the names promise."""
    assert unsynced(offsets, tmp_path, monkeypatch) == []


def test_control_a_job_that_does_not_wait_for_the_disk_is_caught(
    offsets: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same check, on a variant that renames before it flushes."""

    def never(handle: int) -> None:
        """Nothing."""

    monkeypatch.setattr(os, "fsync", never)
    early = unsynced(offsets, tmp_path, monkeypatch)
    assert {"000000.rows", "000000.errors", "out.parquet", "out.errors.csv"} <= set(early)


def test_a_folder_of_parts_that_is_a_link_is_not_followed(offsets: dict[int, Path], tmp_path: Path) -> None:
    """Whoever may write beside the output must not choose where parts go."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".out.csv.parts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BatchRefused, match="cannot be made or opened"):
        again(offsets[1], write(tmp_path / "in.csv", toy_rows(5)), tmp_path / "out.csv")
    with pytest.raises(BatchRefused):
        Parts(tmp_path / "out.csv")
