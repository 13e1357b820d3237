"""The contract: JSON round trip, schema, and what counts as a breaking change."""

from dataclasses import replace

import pytest

from registry.contract import Column, Contract, Output, incompatibilities
from registry.errors import BundleCorrupt

CONTRACT = Contract(
    "toy",
    (
        Column("temp", "float", nullable=True, minimum=-5.0, maximum=30.0, example=1.5),
        Column("carrier", "string", categories=("AA", "UA"), example="AA"),
        Column("hour", "int", minimum=0.0, maximum=23.0, example=7),
    ),
    Output("classification", (0, 1)),
)


def test_round_trips_through_json_form() -> None:
    """What is read back equals what was written."""
    assert Contract.from_dict(CONTRACT.to_dict()) == CONTRACT


def test_groups_columns_into_two_tensors() -> None:
    """Numbers and strings each keep the order of the columns."""
    assert [c.name for c in CONTRACT.numbers] == ["temp", "hour"]
    assert [c.name for c in CONTRACT.strings] == ["carrier"]


def test_schema_accepts_the_example_and_refuses_other_rows() -> None:
    """Checked by an independent validator."""
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(CONTRACT.json_schema())
    assert validator.is_valid(CONTRACT.example_row())
    assert not validator.is_valid({**CONTRACT.example_row(), "extra": 1})
    assert not validator.is_valid({**CONTRACT.example_row(), "hour": "seven"})
    assert not validator.is_valid({**CONTRACT.example_row(), "hour": None})


def test_refuses_a_damaged_form() -> None:
    """A missing key is named, not guessed."""
    data = CONTRACT.to_dict()
    del data["columns"][0]["dtype"]
    with pytest.raises(BundleCorrupt, match=r"contract\.json"):
        Contract.from_dict(data)


def test_an_equal_contract_is_compatible() -> None:
    """Nothing to report."""
    assert incompatibilities(CONTRACT, CONTRACT) == []


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (replace(CONTRACT, columns=CONTRACT.columns[1:]), "'temp' was removed"),
        (replace(CONTRACT, columns=(*CONTRACT.columns, Column("new", "float"))), "'new' is new"),
        (
            replace(CONTRACT, columns=(replace(CONTRACT.columns[0], nullable=False), *CONTRACT.columns[1:])),
            "no longer accepts null",
        ),
        (replace(CONTRACT, columns=(*CONTRACT.columns[:2], Column("hour", "string"))), "from int to string"),
        (replace(CONTRACT, output=Output("regression")), "output changed"),
        (replace(CONTRACT, output=Output("classification", (1, 0))), "classes or their order"),
    ],
)
def test_breaking_changes_are_named(changed: Contract, reason: str) -> None:
    """One line per reason."""
    found = incompatibilities(CONTRACT, changed)
    assert len(found) == 1
    assert reason in found[0]
