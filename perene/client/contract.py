"""A deployed model's contract as a client has it: what rows must hold, checked before they are sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Literal

from perene.client.values import Value
from registry.contract import Column, Contract, Dtype, Output
from registry.errors import ContractViolation, FieldError
from serving.explain import did_you_mean, expected, explain_row

MOST_ERRORS: Final = 20
_DTYPES: Final[dict[str, Dtype]] = {"number": "float", "integer": "int", "boolean": "bool", "string": "string"}


def contract_of(model: str, schema: Mapping[str, Any], facts: Mapping[str, Any]) -> Contract:
    """The contract that a server tells of: the schema of a row, and what the model answers."""
    columns = [_column(name, part) for name, part in schema.get("properties", {}).items()]
    kind: Literal["classification", "regression"] = (
        "classification" if facts.get("output") == "classification" else "regression"
    )
    output = Output(
        kind, tuple(facts.get("classes", ())), tuple(facts.get("targets", ())), tuple(facts.get("scores", ()))
    )
    return Contract(model, tuple(columns), output)


def _column(name: str, schema: Mapping[str, Any]) -> Column:
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    kind = next(k for k in kinds if k != "null")
    examples = schema.get("examples") or [None]
    return Column(name, _DTYPES[kind], nullable="null" in kinds, example=examples[0])


def check_rows(contract: Contract, rows: Sequence[Mapping[str, Value]]) -> None:
    """Refuse rows that the server would refuse, in its words.

    Raises:
        ContractViolation: with up to 20 field errors.
    """
    found = list(islice(_errors(contract, rows), MOST_ERRORS))
    if found:
        raise _violation(contract, found)


def _errors(contract: Contract, rows: Sequence[Mapping[str, Value]]) -> Iterable[FieldError]:
    for n, row in enumerate(rows):
        yield from explain_row(contract, row, f"rows[{n}]")


def chosen_columns(contract: Contract, names: Sequence[str]) -> list[str]:
    """The contract's columns, of a table that has others too.

    Raises:
        ContractViolation: the table lacks one; a near name among its others is hinted at.
    """
    missing = [column for column in contract.columns if column.name not in names]
    others = Contract("", tuple(Column(n, "float") for n in names if n not in contract.names), Output("regression"))
    found = [
        FieldError(c.name, "missing column", expected(c), "nothing", did_you_mean(others, c.name)) for c in missing
    ]
    if found:
        raise _violation(contract, found[:MOST_ERRORS])
    return contract.names


def _violation(contract: Contract, found: list[FieldError]) -> ContractViolation:
    first = found[0]
    return ContractViolation(
        f"{first.path}: {first.message}, says the contract of {contract.model}", errors=tuple(found)
    )
