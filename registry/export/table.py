"""What a step of a pipeline is given: columns of numbers and of text, each somewhere in a tensor of the graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from registry.contract import Column, Contract, Output
from registry.errors import ConversionRefused
from registry.export.builder import Builder, Value


@dataclass(frozen=True, slots=True)
class Field:
    """One column: position `position` of the tensor `tensor` [N, width].

    `column` is the contract's while no step has changed the values. `single` says that scikit-learn computes on it
    in float32, as it does for frames that are float32 throughout.
    """

    tensor: Value
    width: int
    position: int
    text: bool = False
    column: Column | None = None
    single: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Columns in order."""

    fields: tuple[Field, ...]

    @classmethod
    def of(cls, tensor: Value, width: int, *, text: bool = False, single: bool = False) -> Table:
        """All columns of one tensor."""
        return cls(tuple(Field(tensor, width, n, text, single=single) for n in range(width)))

    @classmethod
    def joined(cls, tables: Iterable[Table]) -> Table:
        """Tables side by side."""
        return cls(tuple(field for table in tables for field in table.fields))

    @property
    def single(self) -> bool:
        """Whether scikit-learn has these columns as one matrix of float32."""
        return bool(self.fields) and all(field.single for field in self.fields)

    @property
    def texts(self) -> bool:
        """Whether all columns are text."""
        return bool(self.fields) and all(field.text for field in self.fields)

    def take(self, positions: Iterable[int]) -> Table:
        """Some columns, in the order given."""
        return Table(tuple(self.fields[position] for position in positions))

    def named(self, names: Iterable[str]) -> Table | None:
        """Columns by the contract's names; None when one of them is not there under its name."""
        by_name = {field.column.name: field for field in self.fields if field.column is not None}
        wanted = list(names)
        return Table(tuple(by_name[name] for name in wanted)) if by_name.keys() >= set(wanted) else None

    def numbers(self, g: Builder, step: object) -> Value:
        """One matrix [N, F] of float64.

        Raises:
            ConversionRefused: there is text among the columns.
        """
        text = next((field for field in self.fields if field.text), None)
        if text is not None:
            raise ConversionRefused(
                f"{type(step).__name__} was fitted on text columns without an encoder",
                where=f"column '{text.column.name}'" if text.column else f"step {type(step).__name__}",
                hint="put OneHotEncoder or OrdinalEncoder in a ColumnTransformer before it",
            )
        return self._matrix(g)

    def strings(self, g: Builder, step: object) -> Value:
        """One matrix [N, F] of text.

        Raises:
            ConversionRefused: there are numbers among the columns.
        """
        if not self.texts:
            raise ConversionRefused(
                f"{type(step).__name__} was fitted on text and numbers together",
                where=f"step {type(step).__name__}",
                hint="give text and numbers a transformer each in a ColumnTransformer",
            )
        return self._matrix(g)

    def _matrix(self, g: Builder) -> Value:
        runs = []
        for tensor, group in groupby(self.fields, key=lambda field: field.tensor):
            fields = list(group)
            positions = [field.position for field in fields]
            whole = positions == list(range(fields[0].width))
            runs.append(tensor if whole else g.gather(tensor, positions))
        return g.concat(runs)


def contract_table(g: Builder, contract: Contract) -> Table:
    """The inputs of the graph as columns in the contract's order."""
    numbers = g.cast("numbers", "double") if contract.precision == "float32" and contract.numbers else "numbers"
    fields = {}
    for name, columns, text in ((numbers, contract.numbers, False), ("strings", contract.strings, True)):
        for position, column in enumerate(columns):
            narrow = column.frame_dtype == "float32"
            fields[column.name] = Field(name, len(columns), position, text, column, narrow)
    return Table(tuple(fields[column.name] for column in contract.columns))


def untouched(table: Table, output: Output) -> Contract:
    """A contract of a table: the original's columns where they are untouched, numbers otherwise."""
    columns = []
    for position, field in enumerate(table.fields):
        if field.column is not None:
            columns.append(field.column)
        elif field.text:
            columns.append(Column(f"t{position}", "string", nullable=True, frame_dtype="object"))
        else:
            columns.append(Column(f"n{position}", "float", nullable=True, frame_dtype="float64"))
    return Contract("step", tuple(columns), output, "float64")
