"""CSV as MLflow's scorer takes it: a header of column names, then rows; the contract says what each cell is."""

from __future__ import annotations

import csv
import io
from typing import Final

import numpy as np

from registry.errors import ContractViolation, FieldError
from serving.decode import Batch, Decoder
from serving.dialects.tabular import Cells, check_count, check_names, read_table
from serving.dialects.tensors import check_inputs
from serving.errors import Malformed, TooLarge
from serving.explain import short

NULLS: Final = frozenset(("", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "-NaN", "NULL", "null", "None", "<NA>", "#N/A"))
"""Cells that pandas reads as null, in columns that may be null; elsewhere they are what they say."""


def read_csv(decoder: Decoder, data: bytes, *, entity: str | None = None, at: float | None = None) -> Batch:
    """A batch from CSV; columns that the contract does not know are left out, as MLflow does.

    Raises:
        Malformed: not UTF-8, not CSV, or a row of another length than the header.
        ContractViolation, TooLarge: as `read_table`.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Malformed("the body is not CSV", expected="CSV in UTF-8") from None
    if "\0" in text:
        raise Malformed("the body is not CSV", expected="CSV in UTF-8 without NUL")
    check_inputs(text.count(",", 0, text.find("\n")) if "\n" in text else text.count(","))
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(lines, [])
        check_names(decoder, _once(header), mode="mlflow")
        rows: list[list[str]] = []
        blank = 0
        for line in lines:
            if not line:
                blank += 1
                if blank > decoder.max_rows:
                    raise Malformed("too many blank lines", where=f"line {lines.line_num}")
                continue
            if len(line) != len(header):
                raise Malformed(
                    "a row of another length", where=f"line {lines.line_num}", expected=f"{len(header)} cells"
                )
            if len(rows) >= decoder.max_rows:
                raise TooLarge("too many rows in one request", where="rows", expected=f"at most {decoder.max_rows}")
            rows.append(line)
    except csv.Error:
        raise Malformed("the body is not CSV", where=f"line {lines.line_num}", expected="CSV in UTF-8") from None
    check_count(decoder, len(rows))
    places = {name: n for n, name in enumerate(header)}
    cells: dict[str, Cells] = {}
    for column in decoder.contract.columns:
        if column.name in places:
            place = places[column.name]
            values = np.empty(len(rows), dtype=object)
            empty = NULLS if column.nullable else frozenset(() if column.dtype == "string" else ("",))
            values[:] = [None if row[place] in empty else row[place] for row in rows]
            cells[column.name] = Cells(values, "text", widened=0)  # in CSV a number is a text
    return read_table(decoder, cells, len(rows), mode="mlflow", entity=entity, at=at)


def _once(header: list[str]) -> dict[str, int]:
    found = {name: n for n, name in enumerate(header)}
    if len(found) != len(header):
        twice = next(name for n, name in enumerate(header) if found[name] != n)
        error = FieldError(short(twice), "a column that comes twice", "each column once")
        raise ContractViolation(f"{error.path}: {error.message}", errors=(error,))
    return found
