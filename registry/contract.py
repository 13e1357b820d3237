"""The contract: typed inputs and outputs of a model; decoder, schema, packing and event log follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from registry.errors import BundleCorrupt

Dtype = Literal["float", "int", "bool", "string"]
Policy = Literal["store", "hash", "drop"]
Scalar = str | int | float | bool
Precision = Literal["float32", "float64"]
EXACT_INT: Mapping[Precision, int] = {"float32": 2**24, "float64": 2**53 - 1}
"""Largest magnitude up to which every integer is a number of this precision and no larger one reads as it."""

_JSON_TYPE = {"float": "number", "int": "integer", "bool": "boolean", "string": "string"}


@dataclass(frozen=True, slots=True)
class Column:
    """One input: its type, whether null is allowed, and what training saw of it.

    `frame_dtype` is the pandas dtype of the column in training: what the original estimator is given again.
    """

    name: str
    dtype: Dtype
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] | None = None
    policy: Policy = "store"
    example: Scalar | None = None
    frame_dtype: str = ""

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of one value; range and categories are notes, not constraints: unseen values are served."""
        kind = _JSON_TYPE[self.dtype]
        schema: dict[str, Any] = {"type": [kind, "null"] if self.nullable else kind}
        if self.minimum is not None and self.maximum is not None:
            schema["description"] = f"training saw {self.minimum:g} to {self.maximum:g}"
        if self.categories:
            shown = ", ".join(self.categories[:20])
            more = f" and {len(self.categories) - 20} more" if len(self.categories) > 20 else ""
            schema["description"] = f"training saw {shown}{more}"
        if self.example is not None:
            schema["examples"] = [self.example]
        return schema


@dataclass(frozen=True, slots=True)
class Output:
    """What a model answers: numbers, or one of `classes`.

    A regression of several numbers a row names them in `targets`; the first is the one that is monitored.
    A classification has a probability for each class, unless `scores` names what it has instead (margins of a
    linear SVM, distances to cluster centres, an anomaly score): its probabilities are then 1 for the class that
    it chose and 0 elsewhere, which makes its Brier loss the 0-1 loss, and they are not shown to callers.
    """

    kind: Literal["regression", "classification"]
    classes: tuple[str | int | bool, ...] = ()
    targets: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contract:
    """Inputs in order and the output of a model.

    The graph takes at most two tensors: `numbers` of the contract's `precision` [N, F] (float, int and bool columns
    in order; null is NaN) and `strings` [N, S] (null is the empty string). It answers `prediction` [N, T], or `label`
    [N] and `probabilities` [N, K], and `scores` [N, S] where the output has them.
    """

    model: str
    columns: tuple[Column, ...]
    output: Output
    precision: Precision = "float32"

    def _repr_html_(self) -> str:
        from registry.html import contract_html

        return contract_html(self)

    @cached_property
    def numbers(self) -> tuple[Column, ...]:
        """Columns packed into the tensor of numbers, in order."""
        return tuple(column for column in self.columns if column.dtype != "string")

    @cached_property
    def strings(self) -> tuple[Column, ...]:
        """Columns packed into the string tensor, in order."""
        return tuple(column for column in self.columns if column.dtype == "string")

    @cached_property
    def layout(self) -> tuple[tuple[Any, ...], ...]:
        """What reading and packing a row depend on: contracts of equal layout read each other's rows."""
        return (self.precision,), *((c.name, c.dtype, c.nullable, c.policy) for c in self.columns)

    @cached_property
    def hides(self) -> bool:
        """Whether there is a column whose values the event log does not keep as they are."""
        return any(column.policy != "store" for column in self.columns)

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [column.name for column in self.columns]

    def example_row(self) -> dict[str, Scalar | None]:
        """One real row that the model accepts."""
        return {column.name: column.example for column in self.columns}

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of one row."""
        return {
            "type": "object",
            "properties": {column.name: column.json_schema() for column in self.columns},
            "required": self.names,
            "additionalProperties": False,
            "examples": [self.example_row()],
        }

    def to_dict(self) -> dict[str, Any]:
        """The JSON form kept in `contract.json`."""
        return {
            "model": self.model,
            "precision": self.precision,
            "columns": [
                {
                    "name": c.name,
                    "dtype": c.dtype,
                    "nullable": c.nullable,
                    "minimum": c.minimum,
                    "maximum": c.maximum,
                    "categories": list(c.categories) if c.categories is not None else None,
                    "policy": c.policy,
                    "example": c.example,
                    "frame_dtype": c.frame_dtype,
                }
                for c in self.columns
            ],
            "output": {
                "kind": self.output.kind,
                "classes": list(self.output.classes),
                "targets": list(self.output.targets),
                "scores": list(self.output.scores),
            },
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Contract:
        """Read the JSON form.

        Raises:
            BundleCorrupt: a key is missing or has another type.
        """
        try:
            columns = tuple(
                Column(
                    name=c["name"],
                    dtype=c["dtype"],
                    nullable=c["nullable"],
                    minimum=c["minimum"],
                    maximum=c["maximum"],
                    categories=tuple(c["categories"]) if c["categories"] is not None else None,
                    policy=c["policy"],
                    example=c["example"],
                    frame_dtype=c.get("frame_dtype", ""),
                )
                for c in data["columns"]
            )
            answer = data["output"]
            output = Output(
                answer["kind"],
                tuple(answer["classes"]),
                tuple(answer.get("targets", ())),  # absent in bundles of format 1
                tuple(answer.get("scores", ())),
            )
            return cls(data["model"], columns, output, data.get("precision", "float32"))
        except (KeyError, TypeError, AttributeError) as error:
            raise BundleCorrupt("contract.json does not have the expected form", where=str(error)) from error


def incompatibilities(old: Contract, new: Contract) -> list[str]:
    """Reasons why callers of `old` would break on `new`; empty when the change is compatible."""
    from registry.contract_diff import contract_diff

    return sorted(change.message for change in contract_diff(old, new) if change.breaking)
