"""A body that is refused costs little, whatever it is full of: the work is counted, and CPU is bounded generously."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from registry.contract import Column, Contract
from registry.contract import Output as Answered
from registry.errors import ContractViolation, FieldError, PereneError
from serving import decode
from serving.decode import Decoder
from serving.explain import explain_row

SIZE = 8 * 1024 * 1024
ROWS = 10_000
COLUMNS = (*(Column(f"x{n}", "float", example=n + 0.25) for n in range(18)), Column("s", "string", example="AA"))
CONTRACT = Contract("m", COLUMNS, Answered("regression"))
DECODER = Decoder(CONTRACT, max_rows=ROWS)
ROW = json.dumps(CONTRACT.example_row()).encode()
CPU_S = 1.0
"""Twenty times what one of these may take on a quiet machine: a bound for what is quadratic, not a measurement."""


def full(unit: bytes, begin: bytes = b'{"rows":[', end: bytes = b"]}") -> bytes:
    return begin + b",".join([unit] * ((SIZE - len(begin) - len(end)) // (len(unit) + 1))) + end


def names(begin: bytes, end: bytes) -> bytes:
    return begin + b",".join(b'"k%d":1' % n for n in range(SIZE // 14)) + end


def bodies() -> dict[str, bytes]:
    good, wrong = [ROW] * (ROWS - 1), ROW.replace(b"0.25", b'"a"', 1)
    return {
        "too many rows": full(ROW),
        "empty rows": full(b"{}"),
        "first row wrong": b'{"rows":[' + b",".join([wrong, *good]) + b"]}",
        "last row wrong": b'{"rows":[' + b",".join([*good, wrong]) + b"]}",
        "all rows wrong": b'{"rows":[' + b",".join([wrong] * ROWS) + b"]}",
        "unknown names": names(b'{"rows":[{', b"}]}"),
        "unknown names in a bare row": names(b"{", b"}"),
        "one name again and again": full(b'"x1":1', b'{"rows":[{', b"}]}"),
        "lists in lists": b"[" * SIZE,
        "objects in objects": b'{"a":' * (SIZE // 5),
        "strings for rows": full(b'"a"'),
        "numbers for rows": full(b"1"),
        "nulls for rows": full(b"null"),
        "lists for rows": full(b"[[]]"),
        "a list of numbers": full(b"1", b"[", b"]"),
        "strings in params": full(b'"a"', b'{"rows":[' + ROW + b'],"params":{"a":[', b"]}}"),
        "an endless number": ROW.replace(b"0.25", b"9" * (SIZE - 2000), 1),
        "long numbers": full(b'{"x1":%b}' % (b"9" * 1000)),
        "beyond all floats": b'{"rows":[' + b",".join([ROW.replace(b"0.25", b"1e999", 1)] * ROWS) + b"]}",
        "half characters": b'{"rows":[{"s":"' + b"\\ud800" * (SIZE // 6 - 10) + b'"}]}',
        "escapes": b'{"rows":[{"s":"' + b"\\\\" * (SIZE // 2 - 10) + b'"}]}',
        "colons": b'{"rows":[{"s":"' + b":" * (SIZE - 30) + b'"}]}',
        "blanks": b" " * SIZE,
        "quotes": b'"' * SIZE,
        "a name without end": b'{"rows":[{"' + b"k" * (SIZE - 20) + b'":1}]}',
    }


BODIES = bodies()


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_is_refused_for_little(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 20 errors are answered, at most 500 rows are looked at, and no field of a row after the twentieth."""
    looked: list[str] = []
    fields = 0

    def counted(contract: Contract, row: Any, path: str) -> Iterator[FieldError]:
        nonlocal fields
        looked.append(path)
        for error in explain_row(contract, row, path):
            fields += 1
            yield error

    monkeypatch.setattr(decode, "explain_row", counted)
    began = time.process_time()
    with pytest.raises(PereneError) as refused:
        DECODER.decode(BODIES[name])
    assert time.process_time() - began < CPU_S
    assert (len(looked) <= 500, fields <= 40) == (True, True)
    if isinstance(refused.value, ContractViolation):
        assert 1 <= len(refused.value.errors) <= 20
    assert len(str(refused.value)) < 1000


def test_the_row_that_is_wrong_is_named_however_late_it_comes() -> None:
    """Rows before the first wrong one are not looked at again, and yet its number is right."""
    with pytest.raises(ContractViolation) as refused:
        DECODER.decode(BODIES["last row wrong"])
    assert [error.path for error in refused.value.errors] == [f"rows[{ROWS - 1}].x0"]


def test_superfluous_columns_are_still_named() -> None:
    """A table with three times the columns is no attack: it is told which ones nobody knows."""
    row = {**CONTRACT.example_row(), **{f"more{n}": 1.5 for n in range(40)}}
    with pytest.raises(ContractViolation) as refused:
        DECODER.decode(json.dumps({"rows": [row] * 5_000}).encode())
    assert [error.path for error in refused.value.errors][:2] == ["rows[0].more0", "rows[0].more1"]
