"""Which recorded rows another version can be asked about; decided on contracts alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry.contract import Column, Contract, Output
from serving.replay.fit import ReplayRefused, fit

COLUMNS = (Column("temp", "float", nullable=True), Column("hour", "int"), Column("carrier", "string"))
OLD = Contract("m", COLUMNS, Output("classification", ("a", "b", "c")))


def _with(column: Column) -> Contract:
    return replace(OLD, columns=tuple(column if c.name == column.name else c for c in OLD.columns))


def test_the_same_contract_fits_and_classes_are_found_in_another_order() -> None:
    """By their names; numbers of classes are their text."""
    assert fit(OLD, {1: OLD}, without_dropped=False).orders == {1: [0, 1, 2]}
    turned = replace(OLD, output=Output("classification", ("c", "a", "b")))
    assert fit(turned, {1: OLD, 2: turned}, without_dropped=False).orders == {1: [2, 0, 1], 2: [0, 1, 2]}
    numbers = replace(OLD, output=Output("classification", (0, 1)))
    texts = replace(OLD, output=Output("classification", ("1", "0")))
    assert fit(texts, {1: numbers}, without_dropped=False).orders == {1: [1, 0]}


def test_what_is_not_asked_for_any_more_is_left_out() -> None:
    """Fewer columns, another order, whole numbers for any numbers: nothing that a row would lack."""
    narrow = replace(OLD, columns=(Column("carrier", "string"), Column("hour", "float")))
    assert fit(narrow, {1: OLD}, without_dropped=False).missing == frozenset()
    hashed = _with(Column("temp", "float", nullable=True, policy="hash"))
    assert fit(narrow, {1: hashed}, without_dropped=False).missing == frozenset()


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (replace(OLD, columns=(*COLUMNS[:2], Column("carriers", "string"))), "renamed from 'carrier'"),
        (replace(OLD, columns=(*COLUMNS, Column("zz", "bool"))), "version 3: there is no column 'zz'"),
        (_with(Column("hour", "string")), "column 'hour' is int, not string"),
        (_with(Column("temp", "int")), "column 'temp' is float, not int"),
        (replace(OLD, output=Output("regression")), "answers by classification, not regression"),
        (replace(OLD, output=Output("classification", ("a", "b", "d"))), r"others \(1 are gone, 1 have come\)"),
    ],
)
def test_what_differs_is_refused_with_the_reason(new: Contract, words: str) -> None:
    """By the number of the version that was recorded; versions that fit do not hide it."""
    with pytest.raises(ReplayRefused, match=words):
        fit(new, {1: new, 3: OLD}, without_dropped=True)


def test_other_targets_are_refused() -> None:
    old = replace(OLD, output=Output("regression", targets=("up", "down")))
    new = replace(OLD, output=Output("regression", targets=("down", "up")))
    with pytest.raises(ReplayRefused, match="other numbers"):
        fit(new, {1: old}, without_dropped=False)


@pytest.mark.parametrize("policy", ["hash", "drop"])
def test_values_that_the_log_does_not_hold_are_asked_for_by_name_or_as_null(policy: str) -> None:
    """Only when every one of them may be null, and it is said."""
    hidden = _with(Column("temp", "float", nullable=True, policy=policy))  # type: ignore[arg-type]
    with pytest.raises(ReplayRefused, match=rf"does not hold the values of 'temp' \({policy}\)") as caught:
        fit(OLD, {1: OLD, 2: hidden}, without_dropped=False)
    assert "--without-dropped" in caught.value.hint
    assert fit(OLD, {1: OLD, 2: hidden}, without_dropped=True).missing == {"temp"}
    needed = _with(Column("carrier", "string", policy=policy))  # type: ignore[arg-type]
    with pytest.raises(ReplayRefused, match="carrier") as caught:
        fit(OLD, {1: needed}, without_dropped=True)
    assert "carrier may not be null" in caught.value.hint
