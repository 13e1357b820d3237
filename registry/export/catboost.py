"""CatBoost: its JSON model as trees; it reads columns as float32 and compares categories by their hash.

A category that CatBoost replaced by a statistic of the target (a feature of more than `one_hot_max_size` categories)
has no form here: such a model is served by CatBoost itself.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import catboost
import numpy as np
import numpy.typing as npt
import pandas as pd

from registry.adversarial import thresholds
from registry.contract import Contract, Output
from registry.errors import ConversionRefused
from registry.export import export
from registry.export.sklearn import export_steps
from registry.export.steps import classify, refused, regress
from registry.export.table import Table
from registry.export.tree_model import Link, TreeModel, classify_trees, regress_trees, texts_of, tree_model
from registry.export.trees import Ensemble, Ints, Tree
from registry.loss import class_index
from registry.original import Answers, class_values, output, predict

_LINKS: Final[Mapping[str, Link]] = {
    "Logloss": "logistic",
    "CrossEntropy": "logistic",
    "MultiClass": "softmax",
    "MultiClassOneVsAll": "each",
    "Poisson": "exp",
    "Tweedie": "exp",
    "RMSE": "identity",
    "MAE": "identity",
    "MAPE": "identity",
    "Quantile": "identity",
    "Expectile": "identity",
    "Huber": "identity",
    "Lq": "identity",
    "LogCosh": "identity",
    "MultiRMSE": "identity",
    "MultiQuantile": "identity",
}
MOST_INTEGERS: Final = 10_000
"""Whole numbers of a categorical column that are looked up by hash."""
DEEPEST: Final = 12
"""Levels of a symmetric tree: it becomes a tree of 2^levels leaves."""


@tree_model.register
def _(estimator: catboost.CatBoost, table: Table) -> TreeModel:
    loss = _loss(estimator)
    if loss not in _LINKS:
        raise refused(estimator, "its loss is unknown here", "serve it with runtime='native'")
    if _LINKS[loss] == "logistic" and estimator.get_probability_threshold() != 0.5:
        raise refused(estimator, "it has a probability threshold", "apply the threshold to its probability")
    categories = _candidates(estimator, table)
    model = _json(estimator, categories)
    info = model["features_info"]
    scale, bias = model["scale_and_bias"]
    reader = _Reader(estimator, info, categories, set(texts_of(table)), len(bias))
    trees = [
        tree
        for found in model.get("oblivious_trees") or model.get("trees") or []
        for tree in reader.trees(found, float(scale))
    ]
    return TreeModel(
        Ensemble(tuple(trees), np.asarray(bias, np.float64)),
        _LINKS[loss],
        narrow=True,
        decided_by="sum",
        texts={column: tuple(categories[column]) for column in texts_of(table)},
    )


def _json(estimator: catboost.CatBoost, categories: Mapping[int, list[str]]) -> dict[str, Any]:
    """The model as JSON, with the hashes of `categories`, by column."""
    pool = None
    if categories:
        columns = estimator.feature_names_
        rows = max(map(len, categories.values()))
        names = {n: (categories[n] * rows)[:rows] if n in categories else [0.0] * rows for n in range(len(columns))}
        frame = pd.DataFrame({columns[n]: values for n, values in names.items()})
        pool = catboost.Pool(frame, cat_features=sorted(categories))
    with tempfile.TemporaryDirectory(prefix="perene-") as folder:
        path = Path(folder) / "model.json"
        estimator.save_model(str(path), format="json", pool=pool)
        found: dict[str, Any] = json.loads(path.read_text())
    return found


def _candidates(estimator: catboost.CatBoost, table: Table) -> dict[int, list[str]]:
    """Of each categorical column, the texts that may be its categories: what the rows of the contract show."""
    made = {}
    for position in estimator.get_cat_feature_indices():
        column = table.fields[position].column
        if column is not None and column.categories:
            made[position] = list(column.categories)
        elif column is not None and column.dtype == "int" and column.minimum is not None and column.maximum is not None:
            low, high = int(column.minimum), int(column.maximum)
            made[position] = [str(value) for value in range(low, min(high, low + MOST_INTEGERS) + 1)]
        else:
            raise refused(
                estimator, "the names of its categories are not known here", "log it alone with the frame of fit"
            )
    return made


class _Reader:
    """Trees of the JSON model."""

    def __init__(
        self,
        estimator: Any,
        info: Mapping[str, Any],
        categories: Mapping[int, list[str]],
        texts: set[int],
        targets: int,
    ) -> None:
        self._texts = texts
        self._estimator = estimator
        self._targets = targets
        self._categories = categories
        self._floats = info.get("float_features") or []
        self._columns = [one["flat_feature_index"] for one in info.get("categorical_features") or []]
        self._names = {int(one["hash"]): one["value"] for one in info.get("cat_features_hash") or []}

    def trees(self, found: Mapping[str, Any], scale: float) -> list[Tree]:
        """One tree for each of the sums: a leaf of CatBoost adds to all of them."""
        splits, yes, no, leaves = _oblivious(found) if "splits" in found else _nested(found)
        if "splits" in found and len(found["splits"]) > DEEPEST:
            raise refused(self._estimator, f"its trees are deeper than {DEEPEST} levels", "fit it with a lower depth")
        asked = [self._split(split) for split in splits]
        values = leaves.reshape(len(yes) + 1, self._targets) * scale
        members = {n: chosen for n, (_, _, _, chosen) in enumerate(asked) if chosen is not None}
        return [
            Tree(
                np.array([column for column, _, _, _ in asked], np.int64),
                np.array([border for _, border, _, _ in asked], np.float64),
                # CatBoost asks whether a number is above the border, or a category the one of the split
                np.array([no[n] if n in members else yes[n] for n in range(len(yes))], np.int64),
                np.array([yes[n] if n in members else no[n] for n in range(len(no))], np.int64),
                np.array([null for _, _, null, _ in asked], np.bool_),
                values[:, target],
                target,
                members=members,
            )
            for target in range(self._targets)
        ]

    def _split(self, split: Mapping[str, Any]) -> tuple[int, float, bool, list[int] | None]:
        """Column, border, whether null is not above it, and the codes of the category."""
        if split["split_type"] == "FloatFeature":
            feature = self._floats[split["float_feature_index"]]
            below = feature["nan_value_treatment"] != "AsTrue"
            return feature["flat_feature_index"], float(np.float32(split["border"])), below, None
        if split["split_type"] != "OneHotFeature":
            raise refused(
                self._estimator,
                "it replaced categories by statistics of the target",
                "serve it with runtime='native', or fit it with a larger one_hot_max_size",
            )
        column = self._columns[split["cat_feature_index"]]
        name = self._names.get(int(split["value"]) % 2**32)
        if name is None or name not in self._categories[column]:
            raise refused(self._estimator, "it knows categories that these rows do not have", "log it with all rows")
        place = self._categories[column].index(name)
        return column, 0.0, False, [place + 1 if column in self._texts else int(name)]


def _oblivious(found: Mapping[str, Any]) -> tuple[list[Any], Ints, Ints, npt.NDArray[np.float64]]:
    """A symmetric tree as a full binary one: level d asks split d, whose answer is bit d of the leaf."""
    levels = len(found["splits"])
    count = 2**levels - 1
    children = 2 * np.arange(count)[:, None] + [1, 2]
    heap = np.arange(2**levels)
    reversed_bits = sum(((heap >> bit) & 1) << (levels - 1 - bit) for bit in range(levels)) if levels else heap
    children = np.where(children < count, children, ~(children - count))
    per_leaf = np.asarray(found["leaf_values"], np.float64).reshape(2**levels, -1)[reversed_bits]
    depth = np.log2(np.arange(1, count + 1)).astype(int)
    return [found["splits"][d] for d in depth], children[:, 0], children[:, 1], per_leaf


def _nested(found: Mapping[str, Any]) -> tuple[list[Any], Ints, Ints, npt.NDArray[np.float64]]:
    """A tree of any shape; its right branch is where the answer is yes."""
    splits: list[Any] = []
    sides: list[list[int]] = []
    leaves: list[Any] = []

    def number(node: Mapping[str, Any]) -> int:
        if "split" not in node:
            leaves.append(np.atleast_1d(node["value"]))
            return ~(len(leaves) - 1)
        place = len(splits)
        splits.append(node["split"])
        sides.append([0, 0])
        sides[place] = [number(node["left"]), number(node["right"])]
        return place

    number(found)
    both = np.asarray(sides, np.int64).reshape(-1, 2)
    return splits, both[:, 0], both[:, 1], np.asarray(leaves, np.float64)


def _loss(estimator: catboost.CatBoost) -> str:
    return str(estimator.get_all_params()["loss_function"]).partition(":")[0]


@output.register
def _(estimator: catboost.CatBoost) -> Output:
    if not estimator.is_fitted():
        raise ConversionRefused(
            f"the {type(estimator).__name__} is not a fitted estimator", hint="call fit before log_model"
        )
    if _LINKS.get(_loss(estimator)) in ("logistic", "softmax", "each"):
        return Output("classification", class_values(estimator.classes_))
    count = int(getattr(estimator, "_n_outputs", 0)) or len(np.atleast_1d(estimator.get_scale_and_bias()[1]))
    return Output("regression", targets=tuple(f"target_{n}" for n in range(count)) if count > 1 else ())


@predict.register
def _(estimator: catboost.CatBoost, contract: Contract, frame: pd.DataFrame) -> Answers:
    try:
        if contract.output.kind == "regression":
            return Answers(np.asarray(estimator.predict(frame), np.float64).reshape(len(frame), -1))
        shares = np.asarray(estimator.predict(frame, prediction_type="Probability"), np.float64)
        labels = np.asarray(estimator.predict(frame, prediction_type="Class")).ravel()
    except catboost.CatBoostError as error:
        raise ValueError("CatBoost does not answer these rows") from error
    return Answers(shares, class_index(contract.output, labels))


@thresholds.register
def _(part: catboost.CatBoost) -> list[npt.NDArray[np.float64]]:
    if not part.is_fitted():
        return []  # what an ensemble made its members from
    found = [np.asarray(borders, np.float64) for borders in part.get_borders().values()]
    # the outermost numbers stand for null
    return [borders[np.abs(borders) < float(np.finfo(np.float32).max)] for borders in found]


classify.register(catboost.CatBoost, classify_trees)
regress.register(catboost.CatBoost, regress_trees)
export.register(catboost.CatBoost, export_steps)
