"""XGBoost: its JSON model as trees; it reads columns, sums leaves and answers in float32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import xgboost

from registry.adversarial import thresholds
from registry.contract import Contract, Output
from registry.export import export
from registry.export.sklearn import export_steps
from registry.export.steps import classify, refused, regress
from registry.export.table import Table
from registry.export.tree_model import Link, TreeModel, classify_trees, regress_trees, texts_of, tree_model
from registry.export.trees import Ensemble, Tree
from registry.original import Answers, output, predict

_LINKS: Final[Mapping[str, Link]] = {
    "binary:logistic": "logistic",
    "reg:logistic": "logistic",
    "binary:hinge": "step",
    "multi:softprob": "softmax",
    "multi:softmax": "softmax",
    "count:poisson": "exp",
    "reg:gamma": "exp",
    "reg:tweedie": "exp",
    "survival:cox": "exp",
    "survival:aft": "exp",
    "reg:squarederror": "identity",
    "reg:squaredlogerror": "identity",
    "reg:pseudohubererror": "identity",
    "reg:absoluteerror": "identity",
    "reg:quantileerror": "identity",
    "reg:expectileerror": "identity",
    "rank:ndcg": "identity",
    "rank:pairwise": "identity",
    "rank:map": "identity",
}
_CATEGORICAL: Final = 1
_MULTICLASS: Final = "multi:softprob"


@tree_model.register(xgboost.Booster)
@tree_model.register(xgboost.XGBModel)
def _(estimator: Any, table: Table) -> TreeModel:
    learner = _learner(estimator)
    objective = learner["objective"]["name"]
    if objective not in _LINKS:
        raise refused(estimator, "its objective is unknown here", "serve it with runtime='native'")
    booster = learner["gradient_booster"]
    if booster["name"] not in ("gbtree", "dart"):
        raise refused(estimator, "it has no trees", "fit it with booster='gbtree'")
    forest = booster["gbtree"]["model"] if booster["name"] == "dart" else booster["model"]
    weights = booster.get("weight_drop") or [1.0] * len(forest["trees"])
    count = _trees_used(estimator, forest)
    texts = set(texts_of(table))
    trees = tuple(
        _tree(estimator, tree, int(target), float(np.float32(weight)), texts)
        for tree, target, weight in zip(
            forest["trees"][:count], forest["tree_info"][:count], weights[:count], strict=True
        )
    )
    link = _LINKS[objective]
    null = getattr(estimator, "missing", np.nan)
    return TreeModel(
        Ensemble(trees, _start(learner, link)),
        link,
        narrow=True,
        narrow_sums=True,
        null=None if null is None or np.isnan(null) else float(null),
        whole=_whole(forest["trees"], texts),
        texts={column: _levels(estimator, forest, column) for column in texts},
    )


def _learner(estimator: Any) -> dict[str, Any]:
    booster = estimator if isinstance(estimator, xgboost.Booster) else estimator.get_booster()
    learner: dict[str, Any] = json.loads(bytes(booster.save_raw("json")))["learner"]
    return learner


def _trees_used(estimator: Any, forest: dict[str, Any]) -> int:
    """Number of trees that `predict` uses: scikit-learn's form stops at the best iteration."""
    best = None if isinstance(estimator, xgboost.Booster) else getattr(estimator, "best_iteration", None)
    return len(forest["trees"]) if best is None else int(forest["iteration_indptr"][best + 1])


def _start(learner: dict[str, Any], link: Link) -> npt.NDArray[np.float64]:
    """The sums' starting point, kept by XGBoost in the unit of its answers."""
    facts = learner["learner_model_param"]
    targets = max(int(facts["num_class"]), int(facts["num_target"]), 1)
    given = np.asarray(json.loads(facts["base_score"]), np.float64).ravel()
    base = np.broadcast_to(given, (targets,)).astype(np.float64)
    if link == "logistic":
        return np.log(base) - np.log1p(-base)
    return np.log(base) if link == "exp" else base


def _tree(estimator: Any, tree: dict[str, Any], target: int, weight: float, texts: set[int]) -> Tree:
    if int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise refused(
            estimator, "its leaves answer several numbers", "fit it with multi_strategy='one_output_per_tree'"
        )
    left, right = np.asarray(tree["left_children"], np.int64), np.asarray(tree["right_children"], np.int64)
    split = left != -1
    index = np.where(split, np.cumsum(split) - 1, ~(np.cumsum(~split) - 1))
    yes, no = index[left[split]], index[right[split]]
    feature = np.asarray(tree["split_indices"], np.int64)[split]
    null_yes = np.asarray(tree["default_left"], np.int64)[split] != 0
    values = np.asarray(tree["split_conditions"], np.float32).astype(np.float64)
    members = {}
    for node, chosen in _category_sets(tree).items():
        place = int(index[node])
        # the categories of a set go right, all others left
        yes[place], no[place] = no[place], yes[place]
        null_yes[place] = not null_yes[place]
        members[place] = chosen
        if int(feature[place]) in texts:  # text counts from 1, and its null is 0
            members[place] = [0] * int(null_yes[place]) + [code + 1 for code in chosen]
    return Tree(
        feature, values[split], yes, no, null_yes, values[~split] * weight, target, strict=True, members=members
    )


def _category_sets(tree: dict[str, Any]) -> dict[int, list[int]]:
    parts = zip(tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True)
    return {int(node): [int(v) for v in tree["categories"][first : first + size]] for node, first, size in parts}


def _whole(trees: list[dict[str, Any]], texts: set[int]) -> dict[int, Literal["part", "null"]]:
    columns = {int(tree["split_indices"][node]) for tree in trees for node in tree["categories_nodes"]}
    return dict.fromkeys(columns - texts, "part")


def _levels(estimator: Any, forest: dict[str, Any], position: int) -> tuple[str, ...]:
    """Categories of a text column in the order of their codes."""
    encoded = (forest.get("cats") or {}).get("enc") or []
    if position >= len(encoded) or not encoded[position]["offsets"]:
        raise refused(estimator, "a column of text is none of its categorical ones", "log it with the frame of fit")
    ends, letters = encoded[position]["offsets"], bytes(v % 256 for v in encoded[position]["values"])
    if not letters.isascii():
        # XGBoost 3.2 counts characters where it means bytes: it cuts such names, and then takes some for others
        raise refused(estimator, "it confuses categories whose names are not ASCII", "fit it on ASCII names")
    return tuple(letters[a:b].decode() for a, b in pairwise(ends))


def _target_count(estimator: Any) -> int:
    return int(_learner(estimator)["learner_model_param"]["num_target"])


def _numbers(count: int) -> Output:
    return Output("regression", targets=tuple(f"target_{n}" for n in range(count)) if count > 1 else ())


@output.register(xgboost.XGBRegressor)
@output.register(xgboost.XGBRanker)
def _(estimator: Any) -> Output:
    return _numbers(_target_count(estimator))


@output.register
def _(estimator: xgboost.Booster) -> Output:
    learner = _learner(estimator)
    objective = learner["objective"]["name"]
    if objective == "multi:softmax":
        raise refused(estimator, "it answers a class without probabilities", "fit it with objective multi:softprob")
    if objective in ("binary:logistic", _MULTICLASS):
        return Output("classification", tuple(range(max(2, int(learner["learner_model_param"]["num_class"])))))
    return _numbers(int(learner["learner_model_param"]["num_target"]))


@predict.register
def _(estimator: xgboost.Booster, contract: Contract, frame: pd.DataFrame) -> Answers:
    found = np.asarray(estimator.predict(xgboost.DMatrix(frame, enable_categorical=True)))
    if contract.output.kind == "regression":
        return Answers(found.astype(np.float64).reshape(len(frame), -1))
    shares = np.column_stack([1 - found, found]) if found.ndim == 1 else found
    labels = (found > np.float32(0.5)).astype(np.int64) if found.ndim == 1 else found.argmax(axis=1)
    return Answers(shares.astype(np.float64), labels)


@thresholds.register(xgboost.Booster)
@thresholds.register(xgboost.XGBModel)
def _(part: Any) -> list[npt.NDArray[np.float64]]:
    if isinstance(part, xgboost.XGBModel) and not part.__sklearn_is_fitted__():
        return []  # what an ensemble made its members from
    booster = _learner(part)["gradient_booster"]
    forest = booster.get("gbtree", booster)["model"]
    found = []
    for tree in forest.get("trees", []):  # a linear booster has none
        split = (np.asarray(tree["left_children"]) != -1) & (np.asarray(tree["split_type"]) != _CATEGORICAL)
        found.append(np.asarray(tree["split_conditions"], np.float32)[split].astype(np.float64))
    return found


for _kind in (xgboost.XGBClassifier, xgboost.Booster):
    classify.register(_kind, classify_trees)
for _kind in (xgboost.XGBModel, xgboost.Booster):
    regress.register(_kind, regress_trees)
export.register(xgboost.Booster, export_steps)
