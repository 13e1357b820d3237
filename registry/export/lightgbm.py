"""LightGBM: its model text as trees; every objective's transformation, nulls, zeros and categories."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal

import lightgbm
import numpy as np
import numpy.typing as npt
import pandas as pd

from registry.adversarial import thresholds
from registry.contract import Contract, Output
from registry.export import export
from registry.export.sklearn import export_steps
from registry.export.steps import classify, refused, regress
from registry.export.table import Table
from registry.export.tree_model import (
    LARGEST_ZERO,
    Link,
    TreeModel,
    classify_trees,
    regress_trees,
    texts_of,
    tree_model,
)
from registry.export.trees import Ensemble, Tree
from registry.original import Answers, output, predict

_LINKS: Final[dict[str, Link]] = {
    "binary": "logistic",
    "multiclass": "softmax",
    "multiclassova": "each",
    "poisson": "exp",
    "gamma": "exp",
    "tweedie": "exp",
    "cross_entropy": "logistic",
    "cross_entropy_lambda": "log1p_exp",
}
"""Of objectives whose predictions are not the sums themselves."""
_PLAIN: Final = frozenset(
    {"regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg", "custom"}
)
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_MISSING: Final = ("none", "zero", "nan")


@tree_model.register(lightgbm.Booster)
@tree_model.register(lightgbm.LGBMModel)
def _(estimator: Any, table: Table) -> TreeModel:
    texts = texts_of(table)
    booster = _booster(estimator)
    head, *bodies = booster.model_to_string(importance_type="split").split("\nTree=")
    facts = _facts(head)
    objective, *arguments = facts.get("objective", "custom").split(" ")
    if objective not in _LINKS and objective not in _PLAIN:
        raise refused(estimator, "its objective is unknown here", "serve it with runtime='native'")
    levels = booster.pandas_categorical or []
    if len(levels) != len(texts):
        raise refused(
            estimator,
            f"it was fitted on {len(levels)} columns of categories, and there are {len(texts)}",
            "log it with the frame that it was fitted on",
        )
    sums = int(facts["num_tree_per_iteration"])
    readers = [_TreeText(estimator, n % sums, _facts(body), set(texts)) for n, body in enumerate(bodies)]
    # a random forest answers the mean of its rounds
    share = sums / len(readers) if "\naverage_output" in head else 1.0
    trees = tuple(reader.tree(share) for reader in readers)
    whole: dict[int, Literal["part", "null"]] = {
        column: "part" for reader in readers for column in reader.categorical - set(texts)
    }
    link: Link = "signed_square" if "sqrt" in arguments else _LINKS.get(objective, "identity")
    return TreeModel(
        Ensemble(trees, np.zeros(sums)),
        link,
        next((float(word.removeprefix("sigmoid:")) for word in arguments if word.startswith("sigmoid:")), 1.0),
        null_zeros=_null_zeros(estimator, readers),
        whole=whole,
        texts={column: tuple(level) for column, level in zip(texts, levels, strict=True)},
    )


class _TreeText:
    """One tree of the model's text."""

    def __init__(self, estimator: Any, target: int, facts: dict[str, str], texts: set[int]) -> None:
        if facts.get("is_linear", "0") == "1":
            raise refused(estimator, "its leaves are linear models", "fit it with linear_tree=False")
        self.target = target
        self._facts = facts
        self._texts = texts
        kinds = self._list("decision_type", np.int64)
        self._category = (kinds & _CATEGORICAL) != 0
        self._left = (kinds & _DEFAULT_LEFT) != 0
        self.missing = np.asarray(_MISSING)[(kinds >> 2) & 3]
        self.features = self._list("split_feature", np.int64)

    @property
    def categorical(self) -> set[int]:
        """Columns that are split by category."""
        return set(self.features[self._category].tolist())

    def zeros(self, *, null: bool) -> set[int]:
        """Columns in whose splits zero means null, or does not."""
        there = (self.missing == "zero") & ~self._category
        return set(self.features[there if null else ~there & ~self._category].tolist())

    def tree(self, share: float) -> Tree:
        """The tree, with `share` of its leaves."""
        limits = self._list("threshold", np.float64)
        # without nulls in training LightGBM reads them as zero; a category that is null goes right
        null_yes = np.where(self.missing == "none", limits >= 0.0, self._left) & ~self._category
        return Tree(
            self.features,
            np.where(self._category, limits, _around_zero(limits)),
            self._list("left_child", np.int64),
            self._list("right_child", np.int64),
            null_yes,
            self._list("leaf_value", np.float64) * share,
            self.target,
            members=self._members(limits),
        )

    def _members(self, limits: npt.NDArray[np.float64]) -> dict[int, list[int]]:
        if not self._category.any():
            return {}
        bounds = self._list("cat_boundaries", np.int64)
        words = self._list("cat_threshold", np.int64).astype("<u4")
        members = {}
        for node in np.flatnonzero(self._category):
            place = int(limits[node])
            bits = np.unpackbits(words[bounds[place] : bounds[place + 1]].view(np.uint8), bitorder="little")
            first = int(int(self.features[node]) in self._texts)  # categories of text count from 1
            members[int(node)] = [int(code) + first for code in np.flatnonzero(bits)]
        return members

    def _list(self, name: str, kind: type[np.generic]) -> npt.NDArray[Any]:
        return np.array(self._facts.get(name, "").split(), dtype=np.float64 if kind is np.float64 else np.int64)


def _around_zero(limits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Thresholds that decide on any number as LightGBM's do after it has made zero of what is as small as that."""
    below = np.nextafter(-LARGEST_ZERO, -np.inf)
    near = np.where(limits < 0.0, below, LARGEST_ZERO)
    return np.where(np.abs(limits) <= LARGEST_ZERO, near, limits)


def _facts(text: str) -> dict[str, str]:
    """`name=value` lines."""
    return dict(re.findall(r"^(\w+)=(.*)$", text, flags=re.MULTILINE))


def _null_zeros(estimator: Any, readers: Sequence[_TreeText]) -> tuple[int, ...]:
    null = {column for reader in readers for column in reader.zeros(null=True)}
    number = {column for reader in readers for column in reader.zeros(null=False)}
    if null & number:
        raise refused(estimator, "zero is null in some splits of a column and not in others", "fit it in one go")
    return tuple(sorted(null))


def _booster(estimator: Any) -> lightgbm.Booster:
    return estimator if isinstance(estimator, lightgbm.Booster) else estimator.booster_


def _classes(booster: lightgbm.Booster) -> int:
    """Number of classes of a booster; 0 for a regression."""
    objective = str(booster.dump_model(num_iteration=1).get("objective", "")).split(" ")[0]
    if objective == "binary":
        return 2
    return int(booster.num_model_per_iteration()) if objective in ("multiclass", "multiclassova") else 0


@output.register
def _(estimator: lightgbm.Booster) -> Output:
    count = _classes(estimator)
    return Output("classification", tuple(range(count))) if count else Output("regression")


@output.register
def _(_estimator: lightgbm.LGBMRanker) -> Output:
    return Output("regression")


@predict.register
def _(estimator: lightgbm.Booster, contract: Contract, frame: pd.DataFrame) -> Answers:
    found = np.asarray(estimator.predict(frame), np.float64)
    if contract.output.kind == "regression":
        return Answers(found.reshape(len(frame), -1))
    shares = np.column_stack([1.0 - found, found]) if found.ndim == 1 else found
    return Answers(shares, shares.argmax(axis=1))


@thresholds.register(lightgbm.Booster)
@thresholds.register(lightgbm.LGBMModel)
def _(part: Any) -> list[npt.NDArray[np.float64]]:
    if isinstance(part, lightgbm.LGBMModel) and not part.__sklearn_is_fitted__():
        return []  # what an ensemble made its members from
    bodies = _booster(part).model_to_string().split("\nTree=")[1:]
    return [np.array(_facts(body).get("threshold", "").split(), np.float64) for body in bodies]


for _kind in (lightgbm.LGBMClassifier, lightgbm.Booster):
    classify.register(_kind, classify_trees)
for _kind in (lightgbm.LGBMModel, lightgbm.Booster):
    regress.register(_kind, regress_trees)
export.register(lightgbm.Booster, export_steps)
