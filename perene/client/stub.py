"""A model's contract as a Python module of types, for editors and type checkers."""

from __future__ import annotations

from typing import Final

from registry.contract import Column, Contract

_TYPES: Final = {"float": "float", "int": "int", "bool": "bool", "string": "str"}
_MODULE: Final = '''"""Rows, answers and labels of {model}, as it is deployed; made by `perene stub {model}`."""

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict, cast

import perene

MODEL: Literal["{model}"] = "{model}"

Row = TypedDict(
    "Row",
    {{
{columns}
    }},
)

{value}


class Answer(TypedDict):
    """What {model} answers, in the order of the rows."""

    model: str
    version: int
    arm: Literal["champion", "candidate", "fallback", "segment", "pinned"]
    predictions: list[{prediction}]{numbers}
    prediction_ids: list[str]


class Label(TypedDict):
    """What really happened after a prediction: its label, numbers by name that came of it, or both."""

    prediction_id: str
    label: NotRequired[Value]
    outcomes: NotRequired[dict[str, float]]
    at: NotRequired[str]


def predict(client: perene.Client, rows: Row | Sequence[Row], *, entity: str | None = None) -> Answer:
    """Predict one row or several."""
    return cast(Answer, client.predict(MODEL, rows, entity=entity))


async def predict_async(client: perene.AsyncClient, rows: Row | Sequence[Row], *, entity: str | None = None) -> Answer:
    """Predict one row or several."""
    return cast(Answer, await client.predict(MODEL, rows, entity=entity))
'''


def module(contract: Contract) -> str:
    """The source of a module that is typed by `contract`.

    Names and classes go into it as Python writes them: whatever a column is called, it is a text there and no code.
    """
    output = contract.output
    numbers = ""
    if output.classes:
        numbers = f"\n    {'scores' if output.scores else 'probabilities'}: list[list[float]]"
    return _MODULE.format(
        model=contract.model,
        columns="\n".join(_line(column) for column in contract.columns),
        value=f"Value = Literal[{', '.join(map(repr, output.classes))}]" if output.classes else "Value = float",
        prediction="list[Value]" if output.targets else "Value",
        numbers=numbers,
    )


def _line(column: Column) -> str:
    kind = f"{_TYPES[column.dtype]} | None" if column.nullable else _TYPES[column.dtype]
    example = "" if column.example is None else f"  # for example {column.example!r}"
    return f"        {column.name!r}: {kind},{example}"
