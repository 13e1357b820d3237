"""The contract as a parser: what it accepts, packs and refuses, and what it says."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contract import Column, Contract, Output
from registry.errors import ContractViolation, PereneError
from serving.decode import Decoder
from serving.errors import Malformed, TooLarge, status_of

CONTRACT = Contract(
    "toy",
    (
        Column("temp", "float", nullable=True, example=1.5),
        Column("carrier", "string", example="AA"),
        Column("hour", "int", example=3),
        Column("late", "bool", example=True),
        Column("gate", "string", nullable=True, example="B2"),
    ),
    Output("regression"),
)
DECODER = Decoder(CONTRACT, max_rows=5)
ROW: dict[str, Any] = {"temp": 1.5, "carrier": "AA", "hour": 3, "late": True, "gate": "B2"}


def body(**changes: Any) -> bytes:
    return json.dumps({"rows": [{**ROW, **changes}]}).encode()


def test_packs_two_tensors_in_the_contract_order() -> None:
    """Numbers float32 with null as NaN, strings with null as the empty text."""
    batch = DECODER.decode(body(temp=None, gate=None))
    np.testing.assert_array_equal(batch.tensors["numbers"], np.array([[np.nan, 3, 1]], dtype=np.float32))
    assert batch.tensors["numbers"].dtype == np.float32
    assert batch.tensors["strings"].tolist() == [["AA", ""]]
    assert batch.rows == [(None, "AA", 3, True, None)]


@pytest.mark.parametrize("names", [("temp",), ("gate",), ("temp", "gate"), ("temp", "hour"), ("carrier", "gate")])
@pytest.mark.parametrize("null", [False, True])
def test_packs_contracts_of_few_columns(names: tuple[str, ...], null: bool) -> None:
    """One column, none of a kind, with null and without: the tensors have a row for each row."""
    contract = Contract("few", tuple(c for c in CONTRACT.columns if c.name in names), Output("regression"))
    rows = [{n: None if null and n in ("temp", "gate") else ROW[n] for n in names}] * 3
    batch = Decoder(contract, max_rows=5).decode(json.dumps({"rows": rows}).encode())
    assert {name: tensor.shape for name, tensor in batch.tensors.items()} == {
        kind: (3, len(columns))
        for kind, columns in (("numbers", contract.numbers), ("strings", contract.strings))
        if columns
    }
    for column, name in enumerate(c.name for c in contract.numbers):
        wanted = math.nan if rows[0][name] is None else float(rows[0][name] or 0)
        np.testing.assert_array_equal(batch.tensors["numbers"][:, column], np.float32(wanted))
    for column, name in enumerate(c.name for c in contract.strings):
        assert batch.tensors["strings"][:, column].tolist() == [rows[0][name] or ""] * 3


def test_reads_entity_and_event_time() -> None:
    """RFC 3339, and without an offset it is UTC."""
    batch = DECODER.decode(json.dumps({"rows": [ROW], "entity": "a:1", "at": "2013-04-01T12:00:00Z"}).encode())
    assert (batch.entity, batch.at) == ("a:1", 1364817600.0)


def test_accepts_a_bare_row_and_whole_floats_for_integers() -> None:
    """`3.0` is an integer."""
    batch = DECODER.decode(json.dumps({**ROW, "hour": 3.0}).encode())
    assert batch.tensors["numbers"][0, 1] == 3.0


@pytest.mark.parametrize(
    ("changes", "path", "expected", "got"),
    [
        ({"temp": "1.5"}, "rows[0].temp", "number or null", "string"),
        ({"temp": True}, "rows[0].temp", "number or null", "boolean"),
        ({"hour": 3.5}, "rows[0].hour", "integer", "number"),
        ({"hour": "3"}, "rows[0].hour", "integer", "string"),
        ({"hour": True}, "rows[0].hour", "integer", "boolean"),
        ({"hour": None}, "rows[0].hour", "integer", "null"),
        ({"late": "false"}, "rows[0].late", "boolean", "string"),
        ({"late": 1}, "rows[0].late", "boolean", "integer"),
        ({"carrier": None}, "rows[0].carrier", "string", "null"),
        ({"carrier": 7}, "rows[0].carrier", "string", "integer"),
        ({"carrier": {"a": 1}}, "rows[0].carrier", "string", "object"),
    ],
)
def test_a_wrong_type_is_named_with_what_was_expected(
    changes: dict[str, Any], path: str, expected: str, got: str
) -> None:
    """Path, expected type and the type that came; never the value."""
    with pytest.raises(ContractViolation) as caught:
        DECODER.decode(body(**changes))
    error = caught.value.errors[0]
    assert (error.path, error.expected) == (path, expected)
    assert error.got in (got, "number")
    assert status_of(caught.value) == 422


def test_unknown_and_missing_features_come_with_a_suggestion() -> None:
    """A typing error gives both, and the right name."""
    row = {("Carier" if k == "carrier" else k): v for k, v in ROW.items()}
    with pytest.raises(ContractViolation) as caught:
        DECODER.decode(json.dumps({"rows": [row]}).encode())
    found = {e.path: e for e in caught.value.errors}
    assert found["rows[0].Carier"].hint == "did you mean 'carrier'?"
    assert found["rows[0].carrier"].message == "missing feature"


def test_at_most_twenty_errors_are_listed() -> None:
    """An answer stays small, whatever was sent."""
    with pytest.raises(ContractViolation) as caught:
        DECODER.decode(json.dumps({"rows": [{f"x{i}": 1 for i in range(1000)}]}).encode())
    assert len(caught.value.errors) == 20


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"3",
        b'"x"',
        b'{"rows":[',
        b'{"rows":[{}],}',
        b"\xef\xbb\xbf{}",
        b'{"temp": NaN, "carrier":"AA","hour":1,"late":true,"gate":null}',
        b'{"temp": Infinity, "carrier":"AA","hour":1,"late":true,"gate":null}',
        b"// comment\n{}",
        '{"carrier":"é"}'.encode("utf-16"),
        b'{"carrier":"\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"temp":1,"temp":2,"carrier":"AA","hour":1,"late":true,"gate":null}',
        b'{"rows":[{"temp":1,"carrier":"AA","hour":1,"late":true,"gate":"a:b","gate":"c"}]}',
        b'{"rows":[{"temp":1,"carrier":"AA","hour":1,"late":true,"gate":null}],"rows":[]}',
    ],
)
def test_what_is_not_json_of_the_route_is_malformed(data: bytes) -> None:
    """400, including keys that occur twice: parsers disagree on which one counts."""
    with pytest.raises(Malformed):
        DECODER.decode(data)


@pytest.mark.parametrize(
    "text", ["1e999", "-1e999", "3.5e38", "1e39"], ids=["overflow", "negative overflow", "float32", "large"]
)
def test_numbers_that_float32_cannot_hold_are_refused(text: str) -> None:
    """Never silently infinite."""
    data = body().replace(b"1.5", text.encode())
    with pytest.raises(ContractViolation) as caught:
        DECODER.decode(data)
    assert caught.value.errors[0].path == "rows[0].temp"
    assert "finite" in caught.value.errors[0].message


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("temp", ["1.5", "null"])
@pytest.mark.parametrize("zeros", [0, 10, 40, 400, 5000])
def test_integers_that_would_be_rounded_are_refused(zeros: int, temp: str, sign: str) -> None:
    """However large they are, also beside a null."""
    digits = sign + str(2**24 + 1) + "0" * zeros
    data = body().replace(b'"hour": 3', f'"hour": {digits}'.encode()).replace(b"1.5", temp.encode())
    with pytest.raises((ContractViolation, Malformed), match="hour"):
        DECODER.decode(data)


def test_zero_rows_and_too_many_rows_are_refused() -> None:
    """422 and 413."""
    with pytest.raises(ContractViolation, match="no rows"):
        DECODER.decode(b'{"rows": []}')
    with pytest.raises(TooLarge):
        DECODER.decode(json.dumps({"rows": [ROW] * 6}).encode())


@pytest.mark.parametrize("at", ["yesterday", "2013-13-01T00:00:00Z", ""])
def test_a_time_that_is_none_is_refused(at: str) -> None:
    """Named, with an example."""
    with pytest.raises(ContractViolation, match="at: not a time"):
        DECODER.decode(json.dumps({"rows": [ROW], "at": at}).encode())


rows = st.fixed_dictionaries(
    {
        "temp": st.none() | st.floats(-(2.0**99), 2.0**99, width=32),
        "carrier": st.text(max_size=20),
        "hour": st.integers(-(2**24), 2**24),
        "late": st.booleans(),
        "gate": st.none() | st.text(max_size=20),
    }
)


@given(st.lists(rows, min_size=1, max_size=5))
def test_every_row_of_the_contract_is_packed_as_it_is(sent: list[dict[str, Any]]) -> None:
    """Round trip through JSON, whatever colons and quotes the texts hold."""
    batch = DECODER.decode(json.dumps({"rows": sent}).encode())
    for n, row in enumerate(sent):
        temp = batch.tensors["numbers"][n, 0]
        assert math.isnan(temp) if row["temp"] is None else temp == np.float32(row["temp"])
        assert batch.tensors["numbers"][n, 1:].tolist() == [row["hour"], row["late"]]
        assert batch.tensors["strings"][n].tolist() == [row["carrier"], row["gate"] or ""]


@given(st.binary(max_size=300))
def test_any_bytes_give_a_batch_or_an_error_of_ours(data: bytes) -> None:
    """Nothing else ever escapes."""
    try:
        DECODER.decode(data)
    except PereneError as error:
        assert status_of(error) in (400, 413, 422)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*ROW, "rows", "entity", "at", "x"]), json_values))
def test_any_json_gives_a_batch_or_an_error_of_ours(value: dict[str, Any]) -> None:
    """With the right keys and wrong values."""
    try:
        DECODER.decode(json.dumps(value).encode())
    except PereneError as error:
        assert status_of(error) in (400, 413, 422)
