"""Rows, columns and CSV by the contract in three modes: what each takes, and what none of them does."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contract import Column, Contract, Output
from registry.errors import ContractViolation, PereneError
from serving.decode import Decoder, Mode
from serving.dialects.csv_rows import read_csv
from serving.dialects.json_rows import parse, read_columns, read_rows
from serving.dialects.tabular import Cells, read_table
from serving.errors import Malformed, status_of
from serving.json_text import read_json
from tests.unit.test_serving_decode import CONTRACT, DECODER, ROW

MODES: tuple[Mode, ...] = ("strict", "coerce", "mlflow")
LENIENT: tuple[Mode, ...] = ("coerce", "mlflow")
values = st.fixed_dictionaries(
    {
        "temp": st.none() | st.floats(-(2.0**99), 2.0**99, width=32),
        "carrier": st.text(max_size=20),
        "hour": st.integers(-(2**24), 2**24),
        "late": st.booleans(),
        "gate": st.none() | st.text(max_size=20),
    }
)


@given(st.lists(values, min_size=1, max_size=5), st.sampled_from(MODES))
def test_every_spelling_makes_the_batch_that_rows_make(sent: list[dict[str, Any]], mode: Mode) -> None:
    """Objects, lists and columns, in every mode: the same tensors and the same rows for the event log."""
    sent = [{name: row[name] for name in ROW} for row in sent]
    own = DECODER.decode(json.dumps({"rows": sent}).encode())
    columns = {name: [row[name] for row in sent] for name in ROW}
    singles = {name: [[value] for value in column] for name, column in columns.items()}
    for batch in (
        read_rows(DECODER, sent, mode=mode),
        read_rows(DECODER, [list(row.values()) for row in sent], mode=mode),
        read_columns(DECODER, columns, mode=mode),
        read_columns(DECODER, singles, mode=mode),
        *([read_columns(DECODER, sent[0], mode=mode)] if len(sent) == 1 else []),
    ):
        for name in ("numbers", "strings"):
            np.testing.assert_array_equal(batch.tensors[name], own.tensors[name])
            assert batch.tensors[name].dtype == own.tensors[name].dtype
        assert list(batch.rows) == list(own.rows)


@pytest.mark.parametrize("mode", LENIENT)
@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"late": 1}, {"late": True}),
        ({"late": 0.0}, {"late": False}),
        ({"late": "TRUE"}, {"late": True}),
        ({"late": " false "}, {"late": False}),
        ({"hour": True}, {"hour": 1}),
        ({"hour": "3"}, {"hour": 3}),
        ({"hour": "3.0"}, {"hour": 3}),
        ({"temp": "2.5e3"}, {"temp": 2500.0}),
        ({"temp": False}, {"temp": 0.0}),
        ({"carrier": 7}, {"carrier": "7"}),
    ],
)
def test_what_the_lenient_modes_take(mode: Mode, changes: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Widenings that lose nothing; the event log has the value that the contract's type is."""
    batch = read_rows(DECODER, [{**ROW, **changes}, ROW], mode=mode)
    assert batch.rows[0] == tuple({**ROW, **wanted}.values())
    assert [type(v) for v in batch.rows[0]] == [type(v) for v in {**ROW, **wanted}.values()]
    with pytest.raises(ContractViolation):
        read_rows(DECODER, [{**ROW, **changes}])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "changes",
    [
        {"hour": 3.5},
        {"hour": "3.5"},
        {"hour": "three"},
        {"hour": None},
        {"hour": 2**24 + 1},
        {"hour": "16777217"},
        {"hour": "1_000"},
        {"temp": "nan"},
        {"temp": "inf"},
        {"temp": "1e39"},
        {"temp": 1e39},
        {"temp": ""},
        {"temp": []},
        {"late": 2},
        {"late": "yes"},
        {"late": "2"},
        {"late": None},
        {"carrier": 1.5},
        {"carrier": True},
        {"carrier": None},
        {"carrier": ["AA"]},
        {"carrier": {"a": 1}},
    ],
)
def test_what_no_mode_takes(mode: Mode, changes: dict[str, Any]) -> None:
    """Nothing is rounded, guessed or dropped."""
    for rows in ([{**ROW, **changes}], [ROW, {**ROW, **changes}]):
        with pytest.raises(ContractViolation) as caught:
            read_rows(DECODER, rows, mode=mode)
        assert caught.value.errors[0].path == f"rows[{len(rows) - 1}].{next(iter(changes))}"


def test_columns_that_are_absent_or_unknown() -> None:
    """A column that may be null may be absent where a mode is lenient; MLflow's leaves out what it does not know."""
    short = {name: value for name, value in ROW.items() if name != "gate"}
    with pytest.raises(ContractViolation, match="gate: missing"):
        read_rows(DECODER, [short])
    for mode in LENIENT:
        assert read_rows(DECODER, [short, ROW], mode=mode).rows[0][4] is None
        assert read_columns(DECODER, {name: [value] for name, value in short.items()}, mode=mode).rows[0][4] is None
        with pytest.raises(ContractViolation, match="hour: missing"):
            read_rows(DECODER, [{name: value for name, value in ROW.items() if name != "hour"}], mode=mode)
    more = {**ROW, "extra": 1}
    assert read_rows(DECODER, [more], mode="mlflow").rows[0] == tuple(ROW.values())
    for mode in ("strict", "coerce"):
        with pytest.raises(ContractViolation, match="extra: unknown"):
            read_rows(DECODER, [more], mode=mode)


def test_a_mode_of_the_decoder_holds_in_every_dialect() -> None:
    """Perene's own too: what is of the contract to the letter is read as ever, what is near it is taken."""
    lenient = Decoder(CONTRACT, max_rows=5, mode="coerce")
    near = {**ROW, "hour": "7", "late": 0}
    wanted = tuple({**ROW, "hour": 7, "late": False}.values())
    assert lenient.decode(json.dumps({"rows": [ROW]}).encode()).rows == DECODER.decode(json.dumps(ROW).encode()).rows
    assert lenient.decode(json.dumps(near).encode()).rows[0] == wanted
    body = {"rows": [near, ROW], "entity": "e", "at": "2013-04-01T12:00:00Z"}
    batch = lenient.decode(json.dumps(body).encode())
    assert (list(batch.rows), batch.entity, batch.at) == ([wanted, tuple(ROW.values())], "e", 1364817600.0)
    assert read_rows(lenient, [near]).rows[0] == wanted
    refused: list[dict[str, Any]] = [
        {**body, "extra": 1},
        {**body, "entity": 7},
        {"rows": [{**near, "late": 2}]},
        {"rows": 1},
        {"rows": []},
    ]
    for wrong in refused:
        with pytest.raises(ContractViolation):
            lenient.decode(json.dumps(wrong).encode())


def test_columns_of_nothing_but_null() -> None:
    """Taken where null may be, whatever the column's type; refused by the row elsewhere."""
    kinds = ("float", "int", "bool", "string")
    columns = tuple(Column(kind, kind, nullable=True) for kind in kinds)  # type: ignore[arg-type]
    decoder = Decoder(Contract("m", columns, Output("regression")), max_rows=9)
    for mode in MODES:
        assert list(read_rows(decoder, [dict.fromkeys(kinds)] * 2, mode=mode).rows) == [(None,) * 4] * 2
        for name in ("hour", "late", "carrier"):
            with pytest.raises(ContractViolation, match=rf"rows\[0\].{name}: expected"):
                read_rows(DECODER, [{**ROW, name: None}], mode=mode)


def test_numbers_of_every_width_are_columns() -> None:
    """Typed columns are taken by what they hold; text and numbers are never confused, nor NaN with a number."""
    single = Decoder(Contract("m", (Column("x", "int", example=1),), Output("regression")), max_rows=9)
    for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"):
        assert read_table(single, {"x": Cells(np.array([3, 4], dtype=kind), kind)}, 2).rows[1] == (4,)
    wrongs: list[Any] = [np.array([True]), np.array(["3"], dtype=object), np.array([np.nan]), np.array([2**53 + 1])]
    for wrong in wrongs:
        with pytest.raises(ContractViolation):
            read_table(single, {"x": Cells(wrong, "wrong")}, 1)
    with pytest.raises(ContractViolation, match=r"rows\[1\].x"):
        read_table(single, {"x": Cells(np.array([3, 4]), "i8", np.array([False, True]))}, 2)


@given(st.lists(values, min_size=1, max_size=5))
def test_csv_is_read_by_the_contract(sent: list[dict[str, Any]]) -> None:
    """Whatever commas, quotes and line ends the texts hold; an empty cell is null where null may be."""
    for row in sent:
        for name in ("carrier", "gate"):
            row[name] = None if row[name] is None else row[name].replace("\0", "").replace("\r", "")
    texts = io.StringIO()
    writer = csv.DictWriter(texts, list(ROW), quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(sent)
    batch = read_csv(DECODER, texts.getvalue().encode())
    nulls = ("", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "-NaN", "NULL", "null", "None", "<NA>", "#N/A")
    for row, got in zip(sent, batch.rows, strict=True):
        row["gate"] = None if row["gate"] in nulls else row["gate"]
        assert got == tuple(row[name] for name in ROW)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*ROW, "x"]), inner, max_size=4),
    max_leaves=12,
)


@given(json_values, st.sampled_from(MODES))
def test_any_json_gives_a_batch_or_an_error_of_ours(value: Any, mode: Mode) -> None:
    """As rows and as columns."""
    for read in (read_rows, read_columns):
        try:
            read(DECODER, value, mode=mode)
        except PereneError as error:
            assert status_of(error) in (413, 422)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_malformed(data: bytes) -> None:
    """Nothing else ever escapes; CSV neither."""
    for nan in (False, True):
        with contextlib.suppress(Malformed):
            assert isinstance(parse(data, most_rows=10_000, nan=nan), dict)
    try:
        read_csv(DECODER, b"temp,carrier,hour,late,gate\n" + data)
    except PereneError as error:
        assert status_of(error) in (400, 413, 422)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 2}}',
        b'{"a": [{"b": 1}, {"b": 1, "b": 2}]}',
        b'{"a": [1, {"b": 1, "b": 2}]}',
        b'{"a": 1, "\\u0061": 2}',
        b'{"a": "x:y", "b": [[{"c": 1, "c": 1}]]}',
    ],
)
def test_a_key_that_occurs_twice_is_malformed(data: bytes) -> None:
    """At any depth and however it is spelled: parsers disagree on which one counts."""
    with pytest.raises(Malformed, match="twice"):
        parse(data, most_rows=10_000)


def test_names_that_repeat_and_texts_with_colons_are_not_taken_for_keys_twice() -> None:
    """The count of colons is a hint, not a verdict."""
    body = {"a": ["x:y", "::"], "b": [{"c": ":"}, {"c": ":"}], "d": [1, {"e": 2}]}
    assert parse(json.dumps(body).encode(), most_rows=10_000) == body


def test_the_contract_of_these_tests_has_every_kind_of_column() -> None:
    """So that nothing here passes for want of a case."""
    assert {column.dtype for column in CONTRACT.columns} == {"float", "int", "bool", "string"}


def test_bodies_that_are_all_brackets_are_not_parsed() -> None:
    """What so many rows cannot need is refused by a count; wide rows and long texts are no such thing."""
    for data in (b"[" * 100_000, b"[" + b"{}," * 100_000 + b"{}]", b'{"a":"' + b":" * 100_000 + b'"}'):
        with pytest.raises(Malformed, match="too many parts"):
            read_json(data, most_rows=1)
    wide = json.dumps({"rows": [{f"feature_{n}": n / 7 for n in range(2_000)}] * 50}).encode()
    assert len(read_json(wide, most_rows=50)["rows"]) == 50
