"""Encoders of categories. What each category becomes is asked of the fitted encoder itself, not reasoned out again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

from registry.errors import ConversionRefused
from registry.export.builder import Builder, Value
from registry.export.steps import refused, transform
from registry.export.table import Field, Table

Array = npt.NDArray[Any]
UNSEEN: Final = "~never seen in training~"


@transform.register(OneHotEncoder)
@transform.register(OrdinalEncoder)
@transform.register(TargetEncoder)
def _(step: Any, g: Builder, table: Table) -> Table:
    made: list[Table] = []
    blocks = known_answers(step)
    for position, (field, block) in enumerate(zip(table.fields, blocks, strict=True)):
        code = _code(step, g, field, list(step.categories_[position]))
        if isinstance(step, OneHotEncoder):
            made.append(_one_hot(g, code, block))
        else:
            looked_up = g.op("Gather", g.constant(block), g.reshape(code, [-1]), axis=0)
            made.append(Table.of(looked_up, block.shape[1]))
    return Table.joined(made)


def known_answers(step: Any) -> list[Array]:
    """For each column what the encoder makes of each of its categories, and last of one never seen.

    A category never seen, where the encoder refuses it, is answered as no category (zeros or NaN).
    """
    counts = [len(categories) for categories in step.categories_]
    first = [categories[0] for categories in step.categories_]
    rows = [[*first[:i], category, *first[i + 1 :]] for i, known in enumerate(step.categories_) for category in known]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names of features, and categories seen for the first time
        answered = _dense(step.transform(_as_fitted(step, rows)))
        widths = _widths(step)
        starts = np.cumsum([0, *widths])
        found, row = [], 0
        for i, count in enumerate(counts):
            block = answered[row : row + count, starts[i] : starts[i + 1]]
            unseen = _unseen(step, first, i)
            last = block[:1] * (0.0 if isinstance(step, OneHotEncoder) else np.nan)
            if unseen is not None:
                last = unseen[:, starts[i] : starts[i + 1]]
            found.append(np.vstack([block, last]).astype(np.float64))
            row += count
    return found


def _unseen(step: Any, first: list[Any], column: int) -> Array | None:
    other: Any = UNSEEN
    if isinstance(first[column], (int, float, np.number, bool, np.bool_)):
        numbers = [float(v) for v in step.categories_[column] if not absent(v)]
        other = max(numbers, default=0.0) + 1.0
    try:
        return _dense(step.transform(_as_fitted(step, [[*first[:column], other, *first[column + 1 :]]])))
    except (ValueError, TypeError):
        return None  # handle_unknown="error"


def _as_fitted(step: Any, rows: list[list[Any]]) -> Any:
    """Rows whose columns have the types of the categories."""
    import pandas as pd

    names = list(getattr(step, "feature_names_in_", range(len(rows[0]))))
    columns = {}
    for n, (name, known) in enumerate(zip(names, step.categories_, strict=True)):
        values = [row[n] for row in rows]
        columns[name] = pd.Series(values, dtype=object if known.dtype.kind in "OUS" else None)
    return pd.DataFrame(columns)


def _widths(step: Any) -> list[int]:
    if isinstance(step, OneHotEncoder):
        return [int(n) for n in step._n_features_outs]
    if isinstance(step, TargetEncoder) and step.target_type_ == "multiclass":
        return [len(step.classes_)] * len(step.categories_)
    return [1] * len(step.categories_)


def _dense(values: Any) -> Array:
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    return np.asarray(dense, np.float64)


def _code(step: Any, g: Builder, field: Field, categories: list[Any]) -> Value:
    """Position of a column's value among the categories [N, 1]; their count for any other value."""
    x = g.gather(field.tensor, [field.position])
    if field.text:
        null = _null_of(field)
        keys = [("" if null(c) else None) if absent(c) else str(c) for c in categories]
        known = [(key, n) for n, key in enumerate(keys) if key is not None]
        if len(dict(known)) < len(known):
            raise ConversionRefused(
                f"step {type(step).__name__}: null and the empty text are two categories, and requests have only one",
                where=f"column '{field.column.name}'" if field.column else f"step {type(step).__name__}",
                hint="fill the nulls with a word of their own before fit",
            )
        return g.op(
            "LabelEncoder",
            x,
            domain="ai.onnx.ml",
            keys_strings=[key for key, _ in known],
            values_int64s=[n for _, n in known],
            default_int64=len(keys),
        )
    try:
        numbers = np.array([np.nan if c is None else float(c) for c in categories])
    except ValueError as error:
        raise refused(step, "it was fitted on text and given numbers", "fit it on the columns as they come") from error
    same = g.op("Equal", x, g.constant(numbers[None, :]))
    if np.isnan(numbers).any():
        same = g.op("Or", same, g.op("And", g.op("IsNaN", x), g.constant(np.isnan(numbers)[None, :])))
    # a last column of halves wins where no category does
    shares = g.op("Pad", g.cast(same, "double"), g.constant(np.array([0, 0, 0, 1])), g.constant(0.5))
    return g.op("ArgMax", shares, axis=1, keepdims=1)


def absent(category: Any) -> bool:
    """Whether a category is None or NaN."""
    return category is None or (isinstance(category, (float, np.floating)) and bool(np.isnan(category)))


def _null_of(field: Field) -> Callable[[Any], bool]:
    """Whether a category that is None or NaN is the null of this column: in text the two are not the same."""
    if field.column is None:
        return lambda category: True
    none = field.column.frame_dtype == "object/None"
    return lambda category: (category is None) == none


def _one_hot(g: Builder, code: Value, block: Array) -> Table:
    """The block's row for each code, made by comparing positions: a table of all rows would be its width squared."""
    width = block.shape[1]
    if width == 0:
        return Table(())
    lit = np.where(block.any(axis=1), block.argmax(axis=1), -1)
    place = (
        code
        if (lit == np.arange(len(lit))).all()
        else g.op("Gather", g.constant(lit), g.reshape(code, [-1, 1]), axis=0)
    )
    if place != code:
        place = g.reshape(place, [-1, 1])
    return Table.of(g.cast(g.op("Equal", place, g.constant(np.arange(width)[None, :])), "double"), width)
