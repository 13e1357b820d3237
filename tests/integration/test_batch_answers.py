"""Files answered by a real engine: each row once, in order, as the server would answer it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from registry.bundle import read_bundle, seal
from serving.batch.refusals import BatchRefused, FileUnsound
from serving.dialects.json_rows import read_rows
from serving.errors import InferenceFailed
from tests.integration.batch_files import job, left, read, toy_rows, write, write_csv, write_parquet
from tests.integration.dialect_models import CONTRACTS, rows_of
from tests.integration.native_models import RAISE, moody_bundle
from tests.integration.serving_toy import offset_bundle, one_row_bundle, pole_bundle

FORMATS = ("parquet", "csv")


@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("given", FORMATS)
def test_each_row_is_answered_once_in_order_and_what_is_kept_goes_through(
    offsets: dict[int, Path], tmp_path: Path, given: str, wanted: str
) -> None:
    """Several parts of several chunks, with columns that the model does not know and one that it does."""
    rows = toy_rows(25_000)
    file, out = write(tmp_path / f"in.{given}", rows), tmp_path / f"out.{wanted}"
    done = job(offsets[1], file, out, keep=("id", "carrier"), rows_per_part=9_000)
    assert (done.rows, done.written, done.rejected, done.resumed, done.errors) == (25_000, 25_000, 0, 0, None)
    expected = [
        {"row": n, "id": row["id"], "carrier": row["carrier"], "prediction": row["hour"] + 100.0}
        for n, row in enumerate(rows)
    ]
    assert expected == read(out)
    assert left(tmp_path) == {file.name, out.name}


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_kind_of_model_answers_as_for_one_request(kinds: dict[str, Path], tmp_path: Path, name: str) -> None:
    """Classes, probabilities, scores, several targets: flat columns, the same in both formats."""
    from serving.batch.rows import Scorer
    from serving.settings import ServingSettings

    contract = CONTRACTS[name]
    rows = rows_of(contract, 300)
    with Scorer(read_bundle(kinds[name]), ServingSettings()) as scorer:
        [(_, answer)] = scorer.answers(read_rows(scorer.decoder, rows).tensors)
    assert not isinstance(answer, str)
    for ending in FORMATS:
        file = write(tmp_path / f"in.{ending}", rows)
        job(kinds[name], file, tmp_path / f"{ending}.parquet")
        found = read(tmp_path / f"{ending}.parquet")
        output = contract.output
        beside = answer.scores or answer.values
        names = [f"score_{s}" for s in output.scores] or [f"probability_{c}" for c in output.classes]
        if output.targets:
            expected: list[dict[str, Any]] = [{"prediction_up": u, "prediction_down": d} for u, d in answer.predictions]
        elif beside:
            expected = [
                {"prediction": p, **dict(zip(names, b, strict=True))}
                for p, b in zip(answer.predictions, beside, strict=True)
            ]
        else:
            expected = [{"prediction": p} for p in answer.predictions]
        assert [{"row": n, **row} for n, row in enumerate(expected)] == found


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moody_bundle(tmp_path_factory.mktemp("native") / "moody")


def test_a_native_model_answers_from_its_own_process(moody: Path, tmp_path: Path) -> None:
    """More rows than it is asked at once; a row that it fails on is named, and is only that row."""
    rows = [{"x": 7.0 + n / 1000} for n in range(2_500)]
    file = write_parquet(tmp_path / "in.parquet", rows)
    job(moody, file, tmp_path / "out.parquet")
    assert [2 * row["x"] for row in rows] == [row["prediction"] for row in read(tmp_path / "out.parquet")]
    rows[1_234]["x"] = RAISE
    file = write_parquet(tmp_path / "in.parquet", rows)
    job(moody, file, tmp_path / "some.csv", errors="skip")
    assert [n for n in range(2_500) if n != 1_234] == [row["row"] for row in read(tmp_path / "some.csv")]
    [_, (row, _line, column, reason)] = said(tmp_path / "some.errors.csv")
    assert (row, column) == ("1234", "")
    assert "4.0" not in reason


def test_a_model_that_always_fails_is_not_asked_for_ever(moody: Path, toy_bundle: Path, tmp_path: Path) -> None:
    """A graph that takes one row: halves are tried until single rows answer; one that takes none ends the job."""
    file = write_parquet(tmp_path / "in.parquet", toy_rows(40))
    job(one_row_bundle(toy_bundle, tmp_path / "one"), file, tmp_path / "out.parquet", errors="skip")
    assert len(read(tmp_path / "out.parquet")) == 40
    file = write_parquet(tmp_path / "never.parquet", [{"x": RAISE}] * 300)
    with pytest.raises(InferenceFailed):
        job(moody, file, tmp_path / "never.csv", errors="null")
    assert not (tmp_path / "never.csv").exists()


def said(errors: Path) -> list[list[str]]:
    return list(csv.reader(errors.read_text().splitlines()))


def bad_rows() -> list[dict[str, Any]]:
    rows = toy_rows(3_000)
    rows[5]["hour"] = None
    rows[6]["carrier"] = None
    rows[2_990]["temp"] = float("inf")
    return rows


@pytest.mark.parametrize("manner", ["skip", "null"])
def test_rows_that_do_not_fit_are_set_aside_with_reasons(offsets: dict[int, Path], tmp_path: Path, manner: str) -> None:
    """Parquet: by row and column; with `null` they keep their place and what is kept of them."""
    rows = bad_rows()
    file, out = write_parquet(tmp_path / "in.parquet", rows), tmp_path / "out.parquet"
    done = job(offsets[1], file, out, errors=manner, keep=("id",), rows_per_part=100)
    found = read(out)
    bad = {5, 6, 2_990}
    expected = [
        {"row": n, "id": row["id"], "prediction": None if n in bad else row["hour"] + 100.0}
        for n, row in enumerate(rows)
        if manner == "null" or n not in bad
    ]
    assert expected == found
    assert (done.rows, done.written, done.rejected) == (3_000, len(expected), 3)
    assert done.errors == tmp_path / "out.errors.csv"
    head, *lines = said(done.errors)
    assert head == ["row", "line", "column", "reason"]
    assert [line[:3] for line in lines] == [["5", "", "hour"], ["6", "", "carrier"], ["2990", "", "temp"]]
    assert lines[0][3] == "expected integer, got null"


def test_lines_of_csv_that_do_not_fit_are_named_by_line(offsets: dict[int, Path], tmp_path: Path) -> None:
    """Text for a number, a fraction for an integer, a short row, after a quoted line break and blank lines."""
    text = 'id,temp,hour,late,carrier\n"a\nb",1.5,1,true,AA\n\nc,x9y,2,true,AA\nd,1,2.5,false,B6\ne,1,2\n,,3,0,"U,A"\n'
    file, out = tmp_path / "in.csv", tmp_path / "out.csv"
    file.write_text(text)
    job(offsets[1], file, out, errors="null", keep=("id", "temp"))
    assert out.read_text().splitlines() == [
        "row,id,temp,prediction",
        '0,"a',
        'b","1.5",101',
        '1,"c","x9y",',
        '2,"d","1",',
        "3,,,",
        '4,"","",103',
    ]
    assert [line[:3] for line in said(tmp_path / "out.errors.csv")[1:]] == [
        ["1", "5", "temp"],
        ["2", "6", "hour"],
        ["3", "7", ""],
    ]
    assert "x9y" not in (tmp_path / "out.errors.csv").read_text()


@pytest.mark.parametrize("ending", FORMATS)
def test_by_default_a_row_that_does_not_fit_refuses_the_file(
    offsets: dict[int, Path], tmp_path: Path, ending: str
) -> None:
    """Named by file, row and column, though it is among the last; nothing of the work is left."""
    rows = toy_rows(20_000)
    rows[19_999]["hour"] = None
    file = write(tmp_path / f"in.{ending}", rows)
    with pytest.raises(FileUnsound) as caught:
        job(offsets[1], file, tmp_path / "out.parquet", rows_per_part=1_000)
    place = "row 19999" if ending == "parquet" else "line 20001 (row 19999)"
    assert caught.value.message == f"{file}: {place}, column 'hour': expected integer, got null"
    assert "--errors skip" in caught.value.hint
    assert left(tmp_path) == {file.name}


def test_an_answer_that_is_no_number_is_the_rows_fault(toy_bundle: Path, tmp_path: Path) -> None:
    """`1 / (hour - 13)` at 13: only these rows."""
    bundle = pole_bundle(toy_bundle, tmp_path / "pole")
    rows = toy_rows(500)
    file = write_parquet(tmp_path / "in.parquet", rows)
    with pytest.raises(FileUnsound, match="row 13: the model's answer is not a finite number"):
        job(bundle, file, tmp_path / "out.parquet")
    job(bundle, file, tmp_path / "out.parquet", errors="null")
    assert [n for n, row in enumerate(read(tmp_path / "out.parquet")) if row["prediction"] is None] == list(
        range(13, 500, 24)
    )


def test_strict_and_coerce_are_the_servers(offsets: dict[int, Path], tmp_path: Path) -> None:
    """A column of texts that spell numbers is refused as a whole, or taken."""
    rows = [{**row, "hour": str(row["hour"])} for row in toy_rows(50)]
    file = write_parquet(tmp_path / "in.parquet", rows)
    with pytest.raises(BatchRefused, match=r"in\.parquet: hour: expected integer"):
        job(offsets[1], file, tmp_path / "out.parquet", errors="skip")
    assert left(tmp_path) == {"in.parquet"}
    job(offsets[1], file, tmp_path / "out.parquet", decoding="coerce")
    assert read(tmp_path / "out.parquet")[7]["prediction"] == 107.0


def test_csv_of_every_sort_is_read_as_the_server_reads_it(kinds: dict[str, Path], tmp_path: Path) -> None:
    """BOM, CRLF, quotes, nulls as pandas spells them, booleans of any kind, no line feed at the end."""
    text = (
        "\ufefftemp,carrier,hour,late,gate,more\r\n"
        '1e3,"a ""b"", c",1,TRUE,B2,x\r\n'
        "NaN,,-2,0,NA,x\r\n"
        ' 2.5 ,"line\r\nbreak",3.0,1.0,,x\r\n'
        ",NA,4, false ,n/a,x"
    )
    file = tmp_path / "in.csv"
    file.write_bytes(text.encode())
    job(kinds["regression"], file, tmp_path / "out.parquet", keep=("carrier", "gate"))
    assert read(tmp_path / "out.parquet") == [
        {"row": 0, "carrier": 'a "b", c', "gate": "B2", "prediction": 1.0},
        {"row": 1, "carrier": "", "gate": "NA", "prediction": -2.0},
        {"row": 2, "carrier": "line\r\nbreak", "gate": "", "prediction": 3.0},
        {"row": 3, "carrier": "NA", "gate": "n/a", "prediction": 4.0},
    ]


def test_texts_that_spell_nothing_finite_are_refused_in_csv(kinds: dict[str, Path], tmp_path: Path) -> None:
    """Whichever of the two readers sees them."""
    for word in ("inf", "nan(1)", "1_000", "0x10", "1.7", "99999999", "yes", "1;5"):
        file = tmp_path / "in.csv"
        file.write_text(f"hour\n1\n{word}\n")
        with pytest.raises(FileUnsound, match="line 3"):
            job(kinds["single"], file, tmp_path / "out.csv")


def test_parquet_as_others_write_it(offsets: dict[int, Path], tmp_path: Path) -> None:
    """Categories, large strings, small integers, nullable integers of pandas, many groups of rows, an index."""
    frame = pd.DataFrame(toy_rows(1_000)).set_index("id")
    frame["carrier"] = frame["carrier"].astype("category")
    frame["hour"] = frame["hour"].astype("Int8")
    file = tmp_path / "in.parquet"
    frame.to_parquet(file, row_group_size=37)
    job(offsets[1], file, tmp_path / "a.parquet", keep=("carrier", "id"), rows_per_part=100)
    assert read(tmp_path / "a.parquet")[26] == {"row": 26, "carrier": "UA", "id": "flight 26", "prediction": 102.0}
    table = pa.Table.from_pylist(toy_rows(1_000))
    large = table.set_column(3, "carrier", table["carrier"].cast(pa.large_string()))
    pq.write_table(large, file, use_dictionary=False, data_page_version="2.0", compression="zstd")
    job(offsets[1], file, tmp_path / "b.parquet")
    assert [row["prediction"] for row in read(tmp_path / "a.parquet")] == [
        row["prediction"] for row in read(tmp_path / "b.parquet")
    ]


MILLION = """
import sys
from pathlib import Path
from tests.integration.batch_files import job

kept = tuple(f"x{n}" for n in range(16))
done = job(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), keep=kept)
status = Path("/proc/self/status").read_text().splitlines()
print(done.written, next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM")))
"""


def test_a_million_rows_of_twenty_columns_take_less_than_half_a_gigabyte(
    offsets: dict[int, Path], tmp_path: Path
) -> None:
    """One group of rows, all columns read and most of them kept; the process at its largest."""
    rows = pa.Table.from_pylist(toy_rows(1_000)).drop_columns(["id"])
    table = pa.concat_tables([rows] * 1_000)
    numbers = np.random.default_rng(0).random(len(table))
    for n in range(16):
        table = table.append_column(f"x{n}", pa.array(numbers + n))
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=1 << 20, use_dictionary=["carrier"])
    command = [
        sys.executable,
        "-c",
        MILLION,
        str(offsets[1]),
        str(tmp_path / "in.parquet"),
        str(tmp_path / "o.parquet"),
    ]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    written, mebibytes = map(int, done.stdout.split())
    print(f"{mebibytes} MiB at most")
    assert written == 1_000_000
    assert mebibytes < 500


def test_a_name_that_the_output_has_itself_cannot_be_kept(offsets: dict[int, Path], tmp_path: Path) -> None:
    """`row` and `prediction` are the output's own; CSV holds no lists."""
    rows = [{**row, "prediction": 1.0, "tags": ["a"]} for row in toy_rows(5)]
    file = write_parquet(tmp_path / "in.parquet", rows)
    with pytest.raises(BatchRefused, match="'prediction' cannot be kept"):
        job(offsets[1], file, tmp_path / "out.parquet", keep=("prediction",))
    with pytest.raises(BatchRefused, match="which CSV cannot"):
        job(offsets[1], file, tmp_path / "out.csv", keep=("tags",))
    job(offsets[1], file, tmp_path / "out.parquet", keep=("tags",))
    assert read(tmp_path / "out.parquet")[0]["tags"] == ["a"]


def test_a_version_of_another_contract_says_what_is_missing(toy_bundle: Path, tmp_path: Path) -> None:
    """With the name that was perhaps meant."""
    folder = offset_bundle(toy_bundle, tmp_path / "b", 1.0)
    contract = json.loads((folder / "contract.json").read_text())
    contract["columns"][1]["name"] = "hours"
    (folder / "contract.json").write_text(json.dumps(contract))
    reference = json.loads((folder / "reference.json").read_text())
    reference["columns"]["hours"] = reference["columns"].pop("hour")
    (folder / "reference.json").write_text(json.dumps(reference))
    seal(folder)
    file = write_csv(tmp_path / "in.csv", toy_rows(5))
    with pytest.raises(BatchRefused, match="hours: missing feature") as caught:
        job(folder, file, tmp_path / "out.csv")
    assert "'hour'" in caught.value.hint
