"""Files that cannot be read and outputs that cannot be written: refused by name and line; nothing is left behind."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from registry.bundle import read_bundle
from registry.errors import PereneError
from serving.batch.job import Asked, score
from serving.batch.journal import Model
from serving.batch.refusals import BatchRefused
from serving.batch.rows import Scorer
from serving.batch.space import needed_bytes
from serving.settings import ServingSettings
from tests.integration.batch_files import job, left, toy_rows, write_csv, write_parquet

HEAD = b"temp,hour,late,carrier\n"
ROW = b"1.5,7,true,AA\n"
Name = str

CSV: list[tuple[bytes, str]] = [
    (b"", "the file is empty"),
    (HEAD, ":1: there are no rows below the header"),
    (HEAD.strip(), ":1: there are no rows below the header"),
    (HEAD + b"\n\n\n", "there are no rows"),
    (HEAD + b"\n" * 3_000_000, "there are no rows"),
    (b"\n" + HEAD + ROW, ":1: there is no header"),
    (ROW * 3, "temp: missing feature|hour: missing feature"),
    (HEAD.replace(b",", b";") + ROW, ":1: columns are separated by ';'"),
    (HEAD.replace(b",", b"\t") + ROW, ":1: columns are separated by a tab"),
    (b"temp,hour,late,hour,carrier\n" + ROW, "column 'hour' comes twice"),
    (b"temp,hour,late\n1,2,true\n", "carrier: missing feature"),
    (b"temp,hours,late,carrier\n" + ROW, "hour: missing feature"),
    (HEAD + ROW + b"1.5,\x007,true,AA\n", ":3: a NUL byte"),
    (HEAD + ROW * 2 + b"1,7,true,\xe9\n", ":4: not UTF-8"),
    (HEAD + ROW + b"1,7,true,\xe2\x82", ":3: not UTF-8: it ends inside of a character"),
    (HEAD.decode().encode("utf-16") + ROW, ":1: (a NUL byte|not UTF-8)"),
    (HEAD + ROW + b'1,7,true,"AA\n' + ROW * 2, ":3: a quote that is not closed"),
    (HEAD + ROW + b'1,7,true,"A"A\n' + ROW * 2, ":3: not CSV"),
    (HEAD + ROW + b'1,7,true,"A"A"B"\n' + ROW, ":3: not CSV"),
    (HEAD + ROW + b"1,7\rtrue,AA\n", ":3: a carriage return inside of a line"),
    (HEAD + b"1,7,true," + b"A" * 5_000_000 + b"\n" + ROW, ":2: a line longer than a MiB"),
    (HEAD + ROW + b"1,7,true\n", "line 3 .row 1.: a row of another length"),
    (HEAD + ROW + b"1,7,true,AA,more\n", "line 3 .row 1.: a row of another length"),
    (b"PAR1" + os.urandom(64) + b"PAR1", "in.csv"),
]


@pytest.mark.parametrize(("data", "words"), CSV, ids=[f"{n} {words[:40]}" for n, (_, words) in enumerate(CSV)])
def test_csv_that_no_reader_should_take_is_refused_with_its_line(
    offsets: dict[int, Path], tmp_path: Path, data: bytes, words: str
) -> None:
    """Whatever is done with rows that do not fit; neither output nor folder of parts is left."""
    file = tmp_path / "in.csv"
    file.write_bytes(data)
    with pytest.raises(BatchRefused, match=words) as caught:
        job(offsets[1], file, tmp_path / "out.csv")
    assert str(file) in caught.value.message
    assert left(tmp_path) == {"in.csv"}


def test_a_gigabyte_without_a_line_feed_is_refused_at_once(offsets: dict[int, Path], tmp_path: Path) -> None:
    """A sparse file of NUL, and one of letters that is as long as a test may write."""
    file = tmp_path / "in.csv"
    file.write_bytes(HEAD)
    os.truncate(file, 1 << 30)
    with pytest.raises(BatchRefused, match=":2: a NUL byte"):
        job(offsets[1], file, tmp_path / "out.csv")
    file.write_bytes(HEAD + b"7" * (64 << 20))
    with pytest.raises(BatchRefused, match=":2: a line longer than a MiB"):
        job(offsets[1], file, tmp_path / "out.csv")


def test_a_quoted_text_of_many_lines_ends_somewhere(offsets: dict[int, Path], tmp_path: Path) -> None:
    """Two stray quotes, megabytes apart, make one row of everything between them."""
    file = tmp_path / "in.csv"
    file.write_bytes(HEAD + ROW + b'1,7,true,"AA\n' + ROW * (20 << 16) + b'1,7,true,B6"\n' + ROW)
    with pytest.raises(BatchRefused, match=":3: a row longer than 16 MiB") as caught:
        job(offsets[1], file, tmp_path / "out.csv")
    assert "not closed" in caught.value.hint
    assert left(tmp_path) == {"in.csv"}


def empty_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(toy_rows(3)).slice(0, 0), path)


def of(**changed: object) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.Table.from_pylist([{**row, **changed} for row in toy_rows(3)]), path)


def twice(path: Path) -> None:
    table = pa.Table.from_pylist(toy_rows(3))
    pq.write_table(table.append_column("hour", table["hour"]), path)


def cut(path: Path) -> None:
    write_parquet(path, toy_rows(5_000))
    os.truncate(path, path.stat().st_size - 20)


def lying(path: Path) -> None:
    """The header of a page says that it unpacks to two gigabytes."""
    write_parquet(path, toy_rows(3), compression="gzip", use_dictionary=False)
    data = bytearray(path.read_bytes())
    place = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    # type DATA_PAGE, then the unpacked size as a varint: field 2, five bytes of it instead of one
    assert data[place : place + 3] == b"\x15\x00\x15", data[place : place + 4].hex()
    end = place + 3
    while data[end] & 128:
        end += 1
    size = b"\xfe\xff\xff\xff\x0f"
    grown = data[: place + 3] + size + data[end + 1 :]
    path.write_bytes(grown)


PARQUET: list[tuple[str, Callable[[Path], object], str]] = [
    ("empty", lambda path: path.write_bytes(b""), "the file is empty"),
    ("no rows", empty_parquet, "there are no rows"),
    ("text", lambda path: path.write_bytes(HEAD + ROW), "not a Parquet file"),
    ("truncated", cut, "truncated"),
    ("lying", lying, "truncated or damaged"),
    ("missing", lambda path: pq.write_table(pa.table({"temp": [1.0]}), path), "hour: missing feature"),
    ("twice", twice, "column 'hour' comes twice"),
    ("nested", of(hour=[1]), "column 'hour' is not one of plain values"),
    ("time", of(hour=np.datetime64("2026-01-01", "ns")), "column 'hour' is not one of plain values"),
    ("text for a number", of(hour="7"), "hour: expected integer"),
    ("number for text", of(carrier=7), "carrier: expected string"),
]


@pytest.mark.parametrize(("make", "words"), [case[1:] for case in PARQUET], ids=[case[0] for case in PARQUET])
def test_parquet_that_is_damaged_or_of_other_columns_is_refused(
    offsets: dict[int, Path], tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    """Before any part is written, also where rows that do not fit are skipped."""
    file = tmp_path / "in.parquet"
    make(file)
    with pytest.raises(BatchRefused, match=words) as caught:
        job(offsets[1], file, tmp_path / "out.parquet", errors="skip")
    assert str(file) in caught.value.message
    assert left(tmp_path) == {"in.parquet"}


MUTATED = """
import random, sys
from pathlib import Path
from registry.errors import PereneError
from tests.integration.batch_files import job

bundle, sound, folder = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), Path(sys.argv[3])
dice, ends = random.Random(5), []
for n in range(150):
    data = bytearray(sound)
    for _ in range(dice.randrange(1, 4)):
        data[dice.randrange(len(data))] = dice.randrange(256)
    if dice.random() < 0.2:
        del data[dice.randrange(len(data)):]
    file, out = folder / "in.parquet", folder / "out.parquet"
    file.write_bytes(data)
    try:
        job(bundle, file, out)
        out.unlink()
        ends.append("answered")
    except PereneError as error:
        assert str(file) in error.message, error.message
        ends.append("refused")
    assert [path.name for path in folder.iterdir()] == ["in.parquet"], list(folder.iterdir())
print(ends.count("answered"), ends.count("refused"))
"""


def test_changed_bytes_of_parquet_are_answered_or_refused(offsets: dict[int, Path], tmp_path: Path) -> None:
    """150 mutations in another process, which must live; what is refused leaves nothing."""
    sound, folder = write_parquet(tmp_path / "sound.parquet", toy_rows(400)), tmp_path / "work"
    folder.mkdir()
    command = [sys.executable, "-c", MUTATED, str(offsets[1]), str(sound), str(folder)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    answered, refused = map(int, done.stdout.split())
    print(f"{answered} answered, {refused} refused")
    assert answered + refused == 150
    assert refused > 20


def test_only_plain_files_are_read(offsets: dict[int, Path], tmp_path: Path) -> None:
    """Links, pipes, folders, devices, other endings, nothing at all."""
    real = write_csv(tmp_path / "real.csv", toy_rows(3))
    (tmp_path / "link.csv").symlink_to(real)
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "rows.txt").write_text("x")
    before = left(tmp_path)
    for name, words in {
        "link.csv": "a link",
        "dangling.csv": "a link",
        "pipe.csv": "not a plain file",
        "folder.csv": "not a plain file",
        "rows.txt": "neither Parquet nor CSV",
        "nothing.csv": "no such file",
    }.items():
        with pytest.raises(BatchRefused, match=words):
            job(offsets[1], tmp_path / name, tmp_path / "out.csv")
    assert left(tmp_path) == before


def test_outputs_that_cannot_be_written_are_refused_before_any_work(offsets: dict[int, Path], tmp_path: Path) -> None:
    """What exists, also as a broken link; no folder; another ending; the input itself; the file of errors."""
    file = write_csv(tmp_path / "in.csv", toy_rows(3))
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "link.csv").symlink_to(tmp_path / "nowhere")
    (tmp_path / "with.errors.csv").write_text("mine")
    (tmp_path / ".taken.csv.parts").write_text("mine")
    (tmp_path / ".strange.csv.parts").mkdir()
    (tmp_path / ".strange.csv.parts" / "mine").write_text("mine")
    before = left(tmp_path)
    for name, words in {
        "there.csv": "there.csv: exists already",
        "link.csv": "link.csv: exists already",
        "in.csv": "in.csv: exists already",
        "with.csv": "with.errors.csv: exists already",
        "taken.csv": "cannot be made or opened",
        "strange.csv": "no job's",
        "no/out.csv": "no such folder",
        "out.json": "neither Parquet nor CSV",
    }.items():
        with pytest.raises(BatchRefused, match=words) as caught:
            job(offsets[1], file, tmp_path / name)
        assert caught.value.hint or caught.value.expected
    assert left(tmp_path) == before
    assert (tmp_path / "there.csv").read_text() == (tmp_path / ".strange.csv.parts" / "mine").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(offsets: dict[int, Path], tmp_path: Path) -> None:
    """By its name."""
    file = write_csv(tmp_path / "in.csv", toy_rows(3))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(BatchRefused, match="cannot be made or opened"):
        job(offsets[1], file, closed / "out.csv")


def test_a_disk_without_room_is_seen_before_the_work(
    offsets: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what rows and kept columns will take, twice."""
    import shutil

    file = write_parquet(tmp_path / "in.parquet", toy_rows(50_000))
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=needed_bytes(50_000, 2, 0) - 1))
    with pytest.raises(BatchRefused, match="no room"):
        job(offsets[1], file, tmp_path / "out.parquet")
    assert left(tmp_path) == {"in.parquet"}


FULL = """
import resource, sys
from pathlib import Path
from registry.errors import PereneError
from tests.integration.batch_files import job

if sys.argv[4] != "free":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
try:
    done = job(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), rows_per_part=5_000)
    print(done.written, done.resumed)
except PereneError as error:
    print(error.code, error)
"""


@pytest.mark.parametrize("most", [20_000, 110_000])
def test_a_disk_that_fills_up_keeps_what_is_answered(offsets: dict[int, Path], tmp_path: Path, most: int) -> None:
    """In the first part, and while the parts are put together: the same command goes on when there is room."""
    file, out = write_parquet(tmp_path / "in.parquet", toy_rows(20_000)), tmp_path / "out.csv"

    def run(limit: str) -> str:
        command = [sys.executable, "-c", FULL, str(offsets[1]), str(file), str(out), limit]
        root = Path(__file__).parents[2]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100, check=True).stdout

    said = run(str(most))
    assert said.startswith("batch_refused"), said
    assert "the disk is full" in said
    assert "run the same command again" in said
    assert not out.exists()
    assert run("free").split() == ["20000", "0" if most == 20_000 else "20000"]
    assert len(out.read_text().splitlines()) == 20_001
    assert left(tmp_path) == {"in.parquet", "out.csv"}


def test_a_file_that_changes_while_it_is_read_is_refused(offsets: dict[int, Path], tmp_path: Path) -> None:
    """Some rows would be of one file and some of another."""
    file, out = write_csv(tmp_path / "in.csv", toy_rows(2_000)), tmp_path / "out.csv"
    found = read_bundle(offsets[1])

    def grow(_reached: int, _total: int, rows: int) -> None:
        if rows == 1_000:
            with file.open("a") as more:
                more.write("1.5,7,true,AA,x\n")

    with Scorer(found, ServingSettings()) as scorer:
        asked = Asked(file, out, rows_per_part=1_000)
        with pytest.raises(PereneError, match="changed while it was read"):
            score(asked, scorer, Model("toy", 1, found.digest), report=grow)
    assert not out.exists()


def test_random_csv_is_answered_or_refused_by_line(offsets: dict[int, Path], tmp_path: Path) -> None:
    """Mutations of a sound file: each ends one way or the other, with the right number of rows."""
    dice = random.Random(3)
    sound = write_csv(tmp_path / "sound.csv", toy_rows(60)).read_bytes()
    file, out = tmp_path / "in.csv", tmp_path / "out.csv"
    refused = 0
    with Scorer(read_bundle(offsets[1]), ServingSettings()) as scorer:
        for _ in range(150):
            data = bytearray(sound)
            for _ in range(dice.randrange(1, 4)):
                data[dice.randrange(len(data))] = dice.choice(b'",\n\r;x\x00\xff 0')
            file.write_bytes(data)
            try:
                done = score(Asked(file, out, rows_per_part=20), scorer, Model("toy", 1, "d"))
                assert len(out.read_bytes().splitlines()) == done.rows + 1
                out.unlink()
            except PereneError as error:
                assert str(file) in error.message
                refused += 1
            assert left(tmp_path) == {"sound.csv", "in.csv"}
    print(f"{refused} of 150 refused")
    assert 20 < refused < 150
