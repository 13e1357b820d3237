"""A model of trees of any library: what its columns become first, its sums, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any, Final, Literal

import numpy as np

from registry.errors import ConversionRefused
from registry.export.builder import Builder, Value
from registry.export.steps import Classes, refused
from registry.export.table import Table
from registry.export.trees import Ensemble, tree_sums

Link = Literal["identity", "exp", "logistic", "each", "log1p_exp", "signed_square", "softmax", "step", "choice"]
"""From sums s to answers. `logistic`: 1 / (1 + exp(-scale s)); `each`: that of each class on its own; `log1p_exp`:
log(1 + exp(s)); `signed_square`: s |s|; `step`: 1 where s > 0; `choice`: 1 for the class of the largest s.
"""

LARGEST_ZERO: Final = 1.0000000180025095e-35
"""What LightGBM takes for zero: up to this float32."""


@dataclass(frozen=True)
class TreeModel:
    """Trees, the preparation of their columns and the link of their sums.

    `narrow`: columns are read as float32; `narrow_sums`: sums and answers are float32, too. `decided_by`: of two
    classes it takes the second where the sum is above zero, or where the share is above one half (to which a tiny sum
    rounds). `null`: a number that means null. `null_zeros`: columns in which zero means null. `whole`: columns of
    numeric categories, with what the library makes of a fraction: its whole part or null. `texts`: categories of text
    columns; the first is 1 to the trees, another text or null is 0.
    """

    ensemble: Ensemble
    link: Link = "identity"
    scale: float = 1.0
    narrow: bool = False
    narrow_sums: bool = False
    decided_by: Literal["sum", "share"] = "share"
    null: float | None = None
    null_zeros: tuple[int, ...] = ()
    whole: Mapping[int, Literal["part", "null"]] = field(default_factory=dict)
    texts: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


@singledispatch
def tree_model(estimator: Any, table: Table) -> TreeModel:
    """The trees of `estimator`, which is given the columns of `table`; libraries register theirs.

    Raises:
        ConversionRefused: something in it has no equal in ONNX.
    """
    raise refused(estimator, "it has no trees that are known here", "serve it with runtime='native'")


def regress_trees(estimator: Any, g: Builder, table: Table) -> Value:
    """What a model of trees predicts [N, T]."""
    model = tree_model(estimator, table)
    return _linked(g, tree_sums(g, _columns(g, estimator, model, table), model.ensemble), model)


def classify_trees(estimator: Any, g: Builder, table: Table) -> Classes:
    """What a classifier of trees answers; its decision function are the sums."""
    model = tree_model(estimator, table)
    sums = tree_sums(g, _columns(g, estimator, model, table), model.ensemble)
    if model.narrow_sums:
        sums = g.rounded(sums)
    shares = _linked(g, sums, model)
    if model.narrow_sums:
        shares = g.rounded(shares)
    if len(model.ensemble.base) > 1:
        return Classes(g.argmax(sums), shares, sums)
    decision, limit = (sums, 0.0) if model.decided_by == "sum" else (shares, 0.5)
    above = g.cast(g.op("Greater", decision, g.constant(limit)), "int64")
    both = g.concat([g.op("Sub", g.constant(1.0), shares), shares])
    return Classes(g.reshape(above, [-1]), both, sums)


def texts_of(table: Table) -> list[int]:
    """Positions of the columns of text."""
    return [n for n, column in enumerate(table.fields) if column.text]


def _columns(g: Builder, estimator: Any, model: TreeModel, table: Table) -> Value:
    """The columns as the trees compare them, double [N, F]."""
    x = _coded(g, estimator, model, table)
    width = len(table.fields)
    null = g.constant(np.nan)
    if model.narrow:
        x = g.rounded(x)
    if model.null is not None:
        meant = np.float64(np.float32(model.null)) if model.narrow else np.float64(model.null)
        x = g.op("Where", g.op("Equal", x, g.constant(meant)), null, x)
    if model.null_zeros:
        zero = g.op("LessOrEqual", g.op("Abs", x), g.constant(LARGEST_ZERO))
        x = g.op("Where", g.op("And", zero, _mask(g, model.null_zeros, width)), null, x)
    parts = [n for n, kind in model.whole.items() if kind == "part" and _fractions(table, n)]
    if parts:
        whole = g.op("Mul", g.op("Floor", g.op("Abs", x)), g.op("Sign", x))
        x = g.op("Where", _mask(g, parts, width), whole, x)
    nulls = [n for n, kind in model.whole.items() if kind == "null" and _fractions(table, n)]
    if nulls:
        broken = g.op("Not", g.op("Equal", g.op("Floor", x), x))
        x = g.op("Where", g.op("And", broken, _mask(g, nulls, width)), null, x)
    return x


def _fractions(table: Table, position: int) -> bool:
    """Whether a column can hold anything but whole numbers."""
    column = table.fields[position].column
    return column is None or column.dtype == "float"


def _mask(g: Builder, columns: Iterable[int], width: int) -> Value:
    return g.constant(np.isin(np.arange(width), list(columns))[None, :])


def _coded(g: Builder, estimator: Any, model: TreeModel, table: Table) -> Value:
    """One matrix of all columns, categories of text as numbers from 1."""
    texts = texts_of(table)
    if not texts and not model.texts:
        return table.numbers(g, estimator)
    pieces: list[Value] = []
    numbers = [n for n in range(len(table.fields)) if n not in texts]
    if texts != sorted(model.texts):
        raise ConversionRefused(
            f"{type(estimator).__name__} was fitted on other columns of text than these",
            hint="log the model with the frame that it was fitted on",
        )
    if numbers:
        pieces.append(table.take(numbers).numbers(g, estimator))
    for position in texts:
        known = model.texts[position]
        code = g.op(
            "LabelEncoder",
            table.take([position]).strings(g, estimator),
            domain="ai.onnx.ml",
            keys_strings=list(known),
            values_floats=[float(n) for n in range(1, len(known) + 1)],
            default_float=0.0,
        )
        pieces.append(g.cast(code, "double"))
    order = np.argsort([*numbers, *texts])
    joined = g.concat(pieces)
    return joined if np.all(order[1:] > order[:-1]) else g.gather(joined, order)


def _linked(g: Builder, sums: Value, model: TreeModel) -> Value:
    match model.link:
        case "exp":
            return g.op("Exp", sums)
        case "logistic" | "each":
            return g.op("Sigmoid", sums if model.scale == 1.0 else g.op("Mul", sums, g.constant(model.scale)))
        case "log1p_exp":
            return g.op("Log", g.op("Add", g.constant(1.0), g.op("Exp", sums)))
        case "signed_square":
            return g.op("Mul", sums, g.op("Abs", sums))
        case "softmax":
            return g.op("Softmax", sums, axis=1)
        case "step":
            return g.cast(g.op("Greater", sums, g.constant(0.0)), "double")
        case "choice":
            places = g.constant(np.arange(len(model.ensemble.base))[None, :])
            return g.cast(g.op("Equal", g.reshape(g.argmax(sums), [-1, 1]), places), "double")
        case _:
            return sums
