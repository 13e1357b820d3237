"""scikit-learn's histogram gradient boosting: native categories, nulls and every loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from registry.export.steps import classify, refused, regress
from registry.export.table import Table
from registry.export.tree_model import Link, TreeModel, classify_trees, regress_trees, tree_model
from registry.export.trees import Ensemble, Ints, Tree

_LINKS: Mapping[str, Link] = {"HalfPoissonLoss": "exp", "HalfGammaLoss": "exp"}


@tree_model.register(HistGradientBoostingClassifier)
@tree_model.register(HistGradientBoostingRegressor)
def _(estimator: Any, _table: Table) -> TreeModel:
    columns, codes = _columns(estimator)
    base = np.asarray(estimator._baseline_prediction, np.float64).ravel()
    trees = tuple(
        _tree(predictor, columns, codes, target)
        for stage in estimator._predictors
        for target, predictor in enumerate(stage)
    )
    link: Link = _LINKS.get(type(estimator._loss).__name__, "identity")
    if hasattr(estimator, "classes_"):
        link = "softmax" if len(base) > 1 else "logistic"
    known, whole = _categories(estimator)
    return TreeModel(Ensemble(trees, base), link, decided_by="sum", whole=whole, texts=known)


classify.register(HistGradientBoostingClassifier, classify_trees)
regress.register(HistGradientBoostingRegressor, regress_trees)


def _encoder(estimator: Any) -> list[tuple[int, list[Any]]]:
    """Categorical columns and their known categories, nulls left out, in the order of their codes."""
    if estimator._preprocessor is None:
        return []
    columns = np.flatnonzero(estimator.is_categorical_).tolist()
    encoder = estimator._preprocessor.named_transformers_["encoder"]
    known = [values[~pd.isna(values)].tolist() for values in encoder.categories_]
    return list(zip(columns, known, strict=True))


def _columns(estimator: Any) -> tuple[Ints, dict[int, list[int]]]:
    """The frame's column of each of the trees' columns, and what the trees are given for each code of a category."""
    encoded = _encoder(estimator)
    if not encoded:
        return np.arange(estimator.n_features_in_), {}
    numeric = np.flatnonzero(~np.asarray(estimator.is_categorical_))
    codes = {}
    for column, values in encoded:
        if _is_text(values):
            codes[column] = list(range(1, len(values) + 1))
            continue
        if any(value != int(value) or abs(value) >= 2**31 for value in values):
            raise refused(
                estimator,
                "a categorical column holds numbers that are not whole, or beyond 2,147,483,647",
                "make its categories text",
            )
        codes[column] = [int(value) for value in values]
    return np.concatenate([[column for column, _ in encoded], numeric]).astype(np.int64), codes


def _categories(estimator: Any) -> tuple[dict[int, tuple[str, ...]], dict[int, Literal["part", "null"]]]:
    """Of text columns their categories, and the columns of numeric ones, in which a fraction is none."""
    encoded = _encoder(estimator)
    texts = {column: tuple(values) for column, values in encoded if _is_text(values)}
    return texts, {column: "null" for column, values in encoded if not _is_text(values)}


def _is_text(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _tree(predictor: Any, columns: Ints, codes: Mapping[int, list[int]], target: int) -> Tree:
    """A `TreePredictor` whose leaves add to sum `target`."""
    nodes = predictor.nodes
    leaf = nodes["is_leaf"].astype(np.bool_)
    index = np.where(leaf, ~(np.cumsum(leaf) - 1), np.cumsum(~leaf) - 1)
    inner = nodes[~leaf]
    feature = columns[inner["feature_idx"]]
    yes, no = index[inner["left"]], index[inner["right"]]
    null_yes = inner["missing_go_to_left"].astype(np.bool_)
    members = {}
    for node in np.flatnonzero(inner["is_categorical"]):
        known = codes[int(feature[node])]
        left = _bits(predictor.raw_left_cat_bitsets[inner["bitset_idx"][node]], len(known))
        # a category that was not in training goes with the nulls: they are on the side that is not listed
        if null_yes[node]:
            left = ~left
            yes[node], no[node] = no[node], yes[node]
            null_yes[node] = False
        members[int(node)] = [code for code, there in zip(known, left, strict=True) if there]
    threshold, leaves = inner["num_threshold"].astype(np.float64), nodes["value"][leaf].astype(np.float64)
    return Tree(feature, threshold, yes, no, null_yes, leaves, target, members=members)


def _bits(words: npt.NDArray[np.uint32], count: int) -> npt.NDArray[np.bool_]:
    bits = np.unpackbits(np.asarray(words, "<u4").view(np.uint8), bitorder="little")
    return bits[:count].astype(np.bool_)
