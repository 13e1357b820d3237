"""Differences of contracts: what a caller of the old one would feel is breaking, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contract import Column, Contract, Dtype, Output, Policy, Precision, incompatibilities
from registry.contract_diff import contract_diff

CONTRACT = Contract(
    "toy",
    (
        Column("temp", "float", nullable=True, minimum=-5.0, maximum=30.0, example=1.5),
        Column("carrier", "string", categories=("AA", "UA"), example="AA"),
        Column("id", "int", minimum=0.0, maximum=2.0**30, example=7),
    ),
    Output("classification", ("no", "yes")),
    "float64",
)


@st.composite
def columns(draw: st.DrawFn) -> Column:
    dtype: Dtype = draw(st.sampled_from(["float", "int", "bool", "string"]))
    levels = draw(st.none() | st.sets(st.sampled_from("abcd"), min_size=1)) if dtype == "string" else None
    policy: Policy = draw(st.sampled_from(["store", "hash"]))
    return Column(
        draw(st.sampled_from(["one", "two", "three"])),
        dtype,
        nullable=draw(st.booleans()),
        maximum=draw(st.sampled_from([None, 5.0, 2.0**40])) if dtype == "int" else None,
        categories=tuple(sorted(levels)) if levels else None,
        policy=policy,
    )


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    kept = {column.name: column for column in draw(st.lists(columns(), min_size=1, max_size=4))}
    outputs = (Output("regression"), Output("classification", (0, 1)), Output("classification", (1, 0, 2)))
    precision: Precision = draw(st.sampled_from(["float32", "float64"]))
    return Contract("toy", tuple(kept.values()), draw(st.sampled_from(outputs)), precision)


@given(contracts())
def test_a_contract_does_not_differ_from_itself(contract: Contract) -> None:
    """Nor from itself with its columns in another order: callers name them."""
    assert contract_diff(contract, contract) == []
    assert contract_diff(contract, replace(contract, columns=contract.columns[::-1])) == []


@given(contracts(), contracts())
def test_a_difference_is_seen_from_both_sides(old: Contract, new: Contract) -> None:
    """What was removed one way was added the other way; a narrowing is a widening."""
    there, back = contract_diff(old, new), contract_diff(new, old)
    mirror = {"added": "removed", "removed": "added", "narrowed": "widened", "widened": "narrowed"}
    assert sorted((mirror.get(c.kind, c.kind), c.column) for c in there) == sorted((c.kind, c.column) for c in back)


@given(contracts(), contracts())
def test_rows_of_the_old_contract_fit_unless_a_change_is_breaking(old: Contract, new: Contract) -> None:
    """A row with nulls wherever the old contract takes them, checked by the new one's schema."""
    from jsonschema import Draft202012Validator

    usual = {"float": 1.5, "int": 3, "bool": True, "string": "a"}
    rows = [
        {c.name: usual[c.dtype] for c in old.columns},
        {c.name: None if c.nullable else usual[c.dtype] for c in old.columns},
    ]
    schema = new.json_schema()
    schema["examples"] = []
    fits = all(Draft202012Validator(schema).is_valid(row) for row in rows)
    inputs = [c for c in contract_diff(old, new) if c.breaking and c.kind in ("added", "removed", "retyped", "null")]
    if not inputs:
        assert fits
    # an integer is a number too, to a schema: only there may a breaking change let the row pass
    elif not all(c.kind == "retyped" for c in inputs):
        assert not fits


@given(contracts(), contracts())
def test_incompatibilities_are_the_breaking_changes(old: Contract, new: Contract) -> None:
    """One list, two views; breaking ones come first."""
    found = contract_diff(old, new)
    assert incompatibilities(old, new) == sorted(c.message for c in found if c.breaking)
    assert [c.breaking for c in found] == sorted((c.breaking for c in found), reverse=True)


@pytest.mark.parametrize(
    ("changed", "kind", "breaking", "says"),
    [
        (replace(CONTRACT.columns[1], categories=("AA",)), "narrowed", False, "1 of 2 categories"),
        (replace(CONTRACT.columns[1], categories=("AA", "UA", "B6")), "widened", False, "1 categories are new"),
        (replace(CONTRACT.columns[1], nullable=True), "null", False, "accepts null now"),
        (replace(CONTRACT.columns[0], nullable=False), "null", True, "no longer accepts null"),
        (replace(CONTRACT.columns[2], dtype="float"), "retyped", True, "from int to float"),
    ],
)
def test_a_change_of_a_column(changed: Column, kind: str, breaking: bool, says: str) -> None:
    """Fewer categories warn: unseen values are served."""
    new = replace(CONTRACT, columns=tuple(changed if c.name == changed.name else c for c in CONTRACT.columns))
    (found,) = contract_diff(CONTRACT, new)
    assert (found.kind, found.breaking, found.column) == (kind, breaking, changed.name)
    assert says in found.message


def test_narrowed_classes_break() -> None:
    """A caller may wait for the one that is gone."""
    (found,) = contract_diff(CONTRACT, replace(CONTRACT, output=Output("classification", ("no",))))
    assert (found.kind, found.breaking) == ("classes", True)
    assert "1 removed, 0 added" in found.message


def test_narrower_numbers_break_where_they_refuse_integers_of_before() -> None:
    """Only the column whose integers float32 rounds is a reason."""
    (found,) = contract_diff(CONTRACT, replace(CONTRACT, precision="float32"))
    assert found.breaking
    assert "'id'" in found.message
    small = replace(CONTRACT, columns=CONTRACT.columns[:2])
    (harmless,) = contract_diff(small, replace(small, precision="float32"))
    assert not harmless.breaking


def test_messages_hold_no_values_of_the_data() -> None:
    """Categories are counted, not named."""
    new = replace(CONTRACT, columns=(CONTRACT.columns[0], replace(CONTRACT.columns[1], categories=("secret",))))
    assert "secret" not in "".join(c.message for c in contract_diff(CONTRACT, new))
    assert "UA" not in "".join(c.message for c in contract_diff(CONTRACT, new))
