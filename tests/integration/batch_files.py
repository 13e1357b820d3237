"""Parts of the tests of batch scoring: files of rows with answers known by heart, and a loaded version."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from registry.bundle import read_bundle
from serving.batch.job import Asked, Summary, score
from serving.batch.journal import Model
from serving.batch.rows import Scorer
from serving.settings import ServingSettings

NAMES = ("temp", "hour", "late", "carrier")


def toy_rows(count: int) -> list[dict[str, Any]]:
    """Rows of the toy: every tenth has no temperature, and each a number of its own in `id`."""
    return [
        {
            "temp": None if n % 10 == 9 else n / 2,
            "hour": n % 24,
            "late": n % 3 == 0,
            "carrier": ("AA", "B6", "UA")[n % 3],
            "id": f"flight {n}",
        }
        for n in range(count)
    ]


def write_parquet(path: Path, rows: Sequence[dict[str, Any]], **options: Any) -> Path:
    """As pandas and everybody else writes it."""
    table = pa.Table.from_pylist(list(rows)).replace_schema_metadata(None)
    pq.write_table(table, path, **options)
    return path


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """As Python writes it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([_cell(value) for value in row.values()] for row in rows)
    path.write_text(text.getvalue())
    return path


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """In the format that the name says."""
    return write_csv(path, rows) if path.suffix == ".csv" else write_parquet(path, rows)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of an output."""
    table = arrow_csv.read_csv(path) if path.suffix == ".csv" else pq.read_table(path)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def job(bundle: Path, file: Path, out: Path, *, version: int = 1, decoding: Any = "strict", **options: Any) -> Summary:
    """Answer a file with the version in `bundle`, from loading it on."""
    found = read_bundle(bundle)
    settings = ServingSettings(decoding=decoding, allow_pickle=True, device="cpu")
    with Scorer(found, settings) as scorer:
        return score(Asked(file, out, **options), scorer, Model(found.contract.model, version, found.digest))


def left(folder: Path) -> set[str]:
    """Names in a folder, hidden ones too."""
    return {path.name for path in folder.iterdir()}


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value
