"""What apps hold, as the client sends it: rows of every form, nulls of every library, tables as Arrow."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import BaseModel

from perene.client import frames
from perene.client.contract import check_rows, chosen_columns, contract_of
from perene.client.values import plain, rows_of
from perene.client.wire import Reply
from registry.contract import Column, Contract, Output
from registry.errors import ContractViolation, FieldError


class Plan(Enum):
    BASIC = "basic"


@dataclasses.dataclass
class Row:
    temp: float
    hour: int


class Model(BaseModel):
    temp: float
    hour: int


class Tuple(NamedTuple):
    temp: float
    hour: int


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (1, 1),
        (True, True),
        ("é", "é"),
        (0.1, 0.1),
        (None, None),
        (math.nan, None),
        (Decimal("1.5"), 1.5),
        (Decimal("NaN"), None),
        (Plan.BASIC, "basic"),
        (date(2013, 4, 1), "2013-04-01"),
        (datetime(2013, 4, 1, 12, tzinfo=UTC), "2013-04-01T12:00:00+00:00"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (np.float32(0.5), 0.5),
        (np.float64("nan"), None),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.str_("AA"), "AA"),
        (np.array(3), 3),
        (np.datetime64("2013-04-01"), "2013-04-01"),
        (np.datetime64("NaT"), None),
        (pd.NA, None),
        (pd.NaT, None),
        (pd.Timestamp("2013-04-01", tz="UTC"), "2013-04-01T00:00:00+00:00"),
    ],
)
def test_a_value_as_json_has_it(given: Any, sent: Any) -> None:
    """And of JSON's own type: a number of NumPy is no number to other encoders."""
    found = plain(given)
    assert (found, type(found)) == (sent, type(sent))


@pytest.mark.parametrize(
    "given", [math.inf, np.float32("-inf"), [1], {"a": 1}, b"x", 1j, np.timedelta64(1, "s"), object(), np.zeros(2)]
)
def test_a_value_without_a_form_in_json_is_refused(given: Any) -> None:
    """By its place, not by its content."""
    with pytest.raises(ContractViolation) as caught:
        rows_of([{"temp": 1.0}, {"temp": given}])
    assert caught.value.errors[0].path == "rows[1].temp"


def test_rows_of_every_form_are_the_same_rows() -> None:
    """A mapping, several, dataclasses, a generator, a table."""
    row = {"temp": 1.5, "hour": 7}
    frame = pd.DataFrame([row, row])
    nulls: Any = {"temp": [1.5, None], "kind": pd.Categorical(["a", None])}
    given: list[Any] = [row, [row], Row(1.5, 7), [Row(1.5, 7)], (r for r in [row]), frame.iloc[:1], frame.iloc[0]]
    given += [Model(temp=1.5, hour=7), [Tuple(1.5, 7)], [*frame.itertuples(index=False)][:1]]
    assert [rows_of(form) for form in given] == [[row]] * len(given)
    assert rows_of(frame) == [row, row]
    assert rows_of(frame.assign(**nulls))[1] == {
        "temp": None,
        "hour": 7,
        "kind": None,
    }


@pytest.mark.parametrize("given", ["text", b"bytes", 3, None, [1], [["temp", 1]], Row])
def test_what_is_no_row_is_refused(given: Any) -> None:
    """Text above all: it iterates too."""
    with pytest.raises(ContractViolation, match="not a row"):
        rows_of(given)


def test_the_client_imports_no_pandas() -> None:
    """Nor NumPy, nor PyArrow: an app that sends dictionaries needs none of them."""
    code = (
        "import sys; from perene.client.values import rows_of; import perene; perene.Client; perene.AsyncClient;"
        "rows_of([{'a': 1.5}]); print({'pandas', 'numpy', 'pyarrow', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def sent(frame: pd.DataFrame) -> pa.Table:
    request = frames.request_of("/p", frame, {"idempotency-key": "k"})
    assert request.headers["content-type"] == frames.ARROW
    assert request.headers["idempotency-key"] == "k"
    with pa.ipc.open_stream(request.body) as reader:
        return reader.read_all()


def test_a_table_travels_with_its_types() -> None:
    """Every kind of column that pandas has, with nulls, and without the index."""
    columns: dict[str, Any] = {
        "float": [1.5, None],
        "int": [1, 2],
        "nullable": pd.array([1, None], dtype="Int64"),
        "flag": [True, None],
        "text": ["a", None],
        "string": pd.array(["a", None], dtype="string"),
        "category": pd.Categorical(["a", None]),
        "codes": pd.Categorical([7, None]),
        "time": [pd.Timestamp("2013-04-01"), pd.NaT],
        "decimal": [Decimal("1.5"), None],
        "sparse": pd.arrays.SparseArray(np.array([0.0, 1.0])),
    }
    table = sent(pd.DataFrame(columns, index=[10, 10]))
    assert table.num_rows == 2
    assert {name: table.column(name).to_pylist() for name in table.column_names} == {
        "float": [1.5, None],
        "int": [1, 2],
        "nullable": [1, None],
        "flag": [True, None],
        "text": ["a", None],
        "string": ["a", None],
        "category": ["a", None],
        "codes": [7, None],
        "time": ["2013-04-01T00:00:00", None],
        "decimal": [1.5, None],
        "sparse": [0.0, 1.0],
    }


def test_a_column_of_several_types_is_named() -> None:
    """With the types, without the values."""
    with pytest.raises(ContractViolation) as caught:
        sent(pd.DataFrame({"mixed": [1, "secret"]}))
    assert caught.value.errors == (FieldError("mixed", "a column of several types", "values of one type", "int, str"),)


def test_a_column_that_comes_twice_is_refused() -> None:
    """Which of them counts?"""
    frame = pd.DataFrame([[1, 2]], columns=["a", "a"])
    for refuse in (frames.names_of, rows_of):
        with pytest.raises(ContractViolation, match="twice"):
            refuse(frame)
    with pytest.raises(ContractViolation, match="not a table"):
        frames.names_of([{"a": 1}])


def test_answers_of_json_and_arrow_are_the_same_table() -> None:
    """In the order that people read, with the rows' own index."""
    table = pa.table({"prediction_id": ["i", "j"], "prediction": [0, 1], "probabilities": [[0.5, 0.5], [0.25, 0.75]]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    arrow = Reply(200, {"content-type": frames.ARROW, "x-model-version": "3"}, sink.getvalue().to_pybytes())
    body = {"model": "m", "version": 3, "arm": "champion", "predictions": [0, 1], "prediction_ids": ["i", "j"]}
    own = json.dumps({**body, "probabilities": [[0.5, 0.5], [0.25, 0.75]]}).encode()
    plainly = Reply(200, {"content-type": "application/json"}, own)
    index = pd.Index(["x", "y"], name="who")
    found = frames.joined([frames.answers_of(arrow)], index)
    pd.testing.assert_frame_equal(found, frames.joined([frames.answers_of(plainly)], index))
    assert list(found.columns) == ["prediction", "probabilities", "prediction_id", "version"]
    assert list(found.index) == ["x", "y"]
    assert frames.joined([], pd.Index([])).shape == (0, 3)


CONTRACT = Contract(
    "toy",
    (Column("temp", "float", nullable=True, example=1.5), Column("hour", "int"), Column("carrier", "string")),
    Output("classification", ("no", "yes")),
)


def test_a_contract_survives_the_wire() -> None:
    """As far as rows need it."""
    facts = {"output": "classification", "classes": ["no", "yes"]}
    found = contract_of("toy", CONTRACT.json_schema(), facts)
    assert [(c.name, c.dtype, c.nullable) for c in found.columns] == [
        (c.name, c.dtype, c.nullable) for c in CONTRACT.columns
    ]
    assert found.output == CONTRACT.output


def test_wrong_rows_are_refused_in_the_server_s_words() -> None:
    """Every field of every row, with what was meant."""
    check_rows(CONTRACT, [{"temp": None, "hour": 7.0, "carrier": "AA"}])
    with pytest.raises(ContractViolation, match="says the contract of toy") as caught:
        check_rows(CONTRACT, [{"temp": 1, "hour": 1, "carrier": "AA"}, {"tmep": 1, "hour": 1.5, "carrier": None}])
    assert [(e.path, e.hint) for e in caught.value.errors] == [
        ("rows[1].tmep", "did you mean 'temp'?"),
        ("rows[1].temp", ""),
        ("rows[1].hour", ""),
        ("rows[1].carrier", ""),
    ]
    with pytest.raises(ContractViolation) as caught:
        check_rows(CONTRACT, [{}] * 100)
    assert len(caught.value.errors) == 20


def test_a_table_may_have_more_columns_but_not_fewer() -> None:
    """A misspelt one is missing, and its near name is pointed at."""
    assert chosen_columns(CONTRACT, ["id", "carrier", "hour", "temp"]) == ["temp", "hour", "carrier"]
    with pytest.raises(ContractViolation) as caught:
        chosen_columns(CONTRACT, ["id", "carier", "hour", "temp"])
    assert caught.value.errors == (
        FieldError("carrier", "missing column", "string", "nothing", "did you mean 'carier'?"),
    )


def test_errors_are_told_by_rows_of_the_whole_table() -> None:
    """Not of the part that was sent."""
    error = ContractViolation("rows[3].a: x", errors=(FieldError("rows[3].a", "x"), FieldError("b", "y")))
    found = frames.moved(error, 10_000)
    assert (found.message, [e.path for e in found.errors]) == ("rows[10003].a: x", ["rows[10003].a", "b"])
