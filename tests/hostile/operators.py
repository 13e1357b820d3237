"""Graphs whose operators hold lists that do not fit: trees, support vectors, coefficients, patterns of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from onnx import TensorProto

from tests.hostile import sound
from tests.hostile.sound import tensor

NAN = float("nan")
INFINITY = float("inf")
Table = list[tuple[str, str, Callable[[], onnx.ModelProto]]]
"""Name, a part of the refusal, and the graph."""


def _put(values: list[Any], at: int, value: Any) -> list[Any]:
    return [*values[:at], value, *values[at + 1 :]]


def _tree(name: str, at: int, value: Any) -> Callable[[], onnx.ModelProto]:
    return lambda: sound.trees(**{name: _put(sound.tree()[name], at, value)})


def _chain(depth: int) -> onnx.ModelProto:
    """One tree that is nothing but a long branch."""
    inner, last = list(range(depth)), depth
    return sound.trees(
        nodes_treeids=[0] * (2 * depth + 1),
        nodes_nodeids=list(range(2 * depth + 1)),
        nodes_featureids=[0] * (2 * depth + 1),
        nodes_values=[0.0] * (2 * depth + 1),
        nodes_modes=["BRANCH_LEQ"] * depth + ["LEAF"] * (depth + 1),
        nodes_truenodeids=[i + 1 for i in inner] + [0] * (depth + 1),
        nodes_falsenodeids=[last + 1 + i for i in inner] + [0] * (depth + 1),
        target_treeids=[0] * (depth + 1),
        target_nodeids=list(range(last, 2 * depth + 1)),
        target_ids=[0] * (depth + 1),
        target_weights=[1.0] * (depth + 1),
    )


def _interleaved() -> onnx.ModelProto:
    """The rows of two trees, one from each in turn."""
    given = sound.tree()
    order = [i + 5 * j for i in range(5) for j in range(2)]
    return sound.trees(**{n: [v[i] for i in order] for n, v in given.items() if n.startswith("nodes_")})


TREES: Table = [
    ("a child is the root", "a cycle", _tree("nodes_truenodeids", 1, 0)),
    ("a node is its own child", "two parents|cycle", _tree("nodes_truenodeids", 1, 1)),
    ("two nodes are each other's child", "two parents|cycle", _tree("nodes_falsenodeids", 1, 1)),
    ("a branch that only reaches itself", "cycle|two parents|no root", _tree("nodes_truenodeids", 0, 2)),
    ("two branches share a child", "two parents", _tree("nodes_falsenodeids", 0, 3)),
    ("a child that does not exist", "a child does not exist", _tree("nodes_truenodeids", 0, 77)),
    ("a child far away", "a child does not exist", _tree("nodes_truenodeids", 0, 2**40)),
    ("a child with a negative id", "a child does not exist", _tree("nodes_falsenodeids", 0, -1)),
    ("a node given twice", "given twice", _tree("nodes_nodeids", 3, 2)),
    ("a column before the first", "column that cannot be", _tree("nodes_featureids", 0, -3)),
    ("a column beyond the last", "reads 4 columns of 3", _tree("nodes_featureids", 0, 3)),
    ("a column far away", "column that cannot be", _tree("nodes_featureids", 0, 2**40)),
    ("a mode that does not exist", "unknown mode", _tree("nodes_modes", 0, "BRANCH_MAYBE")),
    ("a threshold that is NaN", "threshold is NaN", _tree("nodes_values", 0, NAN)),
    ("a leaf of NaN", "NaN or infinity", _tree("target_weights", 0, NAN)),
    ("a leaf of infinity", "NaN or infinity", _tree("target_weights", 0, INFINITY)),
    ("a target that does not exist", "target or class", _tree("target_ids", 0, 1)),
    ("a negative target", "target or class", _tree("target_ids", 0, -1)),
    ("a value of a branch", "belongs to no leaf", _tree("target_nodeids", 0, 1)),
    ("a leaf without a value", "leaf has no value", _tree("target_nodeids", 0, 3)),
    ("no targets", "number of targets", lambda: sound.trees(n_targets=0)),
    ("two thousand million targets", "number of targets", lambda: sound.trees(n_targets=2**31)),
    ("lists of different length", "differ in length", lambda: sound.trees(nodes_values=[0.0] * 9)),
    ("fewer leaf ids than leaves", "differ in length", lambda: sound.trees(target_ids=[0] * 5)),
    ("hit rates of other nodes", "nodes_hitrates", lambda: sound.trees(nodes_hitrates=[1.0] * 3)),
    ("a base value of NaN", "NaN or infinity", lambda: sound.trees(base_values=[NAN])),
    ("base values of other targets", "base values", lambda: sound.trees(base_values=[1.0] * 9)),
    ("an aggregate that does not exist", "aggregate", lambda: sound.trees(aggregate_function="MEDIAN")),
    ("a branch of 5,000 nodes", "deeper than", lambda: _chain(5_000)),
    ("trees whose nodes are mixed", "lie together", _interleaved),
]
CLASSES: Table = [
    ("a class that does not exist", "target or class", lambda: sound.tree_classes(class_ids=[0, 1, 7, 0, 1, 2])),
    ("no class labels", "labels of one type", lambda: sound.tree_classes(classlabels_int64s=None)),
    ("the same class twice", "occurs twice", lambda: sound.tree_classes(classlabels_int64s=[0, 1, 1])),
]
FORESTS: Table = [
    ("forest: a cycle", "cycle", lambda: sound.forest(nodes_trueleafs=[0, 0, 1], nodes_truenodeids=[1, 0, 3])),
    ("forest: a node is its own child", "cycle|two parents", lambda: sound.forest(nodes_truenodeids=[0, 0, 3])),
    ("forest: a node that no root reaches", "no root reaches", lambda: sound.forest(tree_roots=[0])),
    ("forest: a root that does not exist", "root does not exist", lambda: sound.forest(tree_roots=[0, 9])),
    ("forest: a leaf that does not exist", "child does not exist", lambda: sound.forest(nodes_falsenodeids=[2, 1, 5])),
    ("forest: a column far away", "column that cannot", lambda: sound.forest(nodes_featureids=[0, 1, 2**33])),
    ("forest: a column beyond the last", "reads 4 columns", lambda: sound.forest(nodes_featureids=[0, 1, 3])),
    (
        "forest: a target that does not exist",
        "target that does not",
        lambda: sound.forest(leaf_targetids=[0] * 4 + [1]),
    ),
    ("forest: membership without its set", "number of sets", lambda: sound.forest(membership_values=None)),
    (
        "forest: a set without an end",
        "number of sets|does not end",
        lambda: sound.forest(membership_values=tensor("m", TensorProto.FLOAT, [1.0, NAN, 3.0])),
    ),
    (
        "forest: a mode that does not exist",
        "unknown mode",
        lambda: sound.forest(nodes_modes=tensor("m", TensorProto.UINT8, [0, 9, 6])),
    ),
    (
        "forest: a split that is NaN",
        "threshold is NaN",
        lambda: sound.forest(nodes_splits=tensor("s", TensorProto.FLOAT, [NAN, 0.0, 0.0])),
    ),
    ("forest: a flag of 2", "neither 0 nor 1", lambda: sound.forest(nodes_trueleafs=[0, 1, 2])),
]
SVM: Table = [
    ("svm: more vectors counted than given", "support vectors", lambda: sound.svm(vectors_per_class=[2, 5])),
    ("svm: a negative count", "count of vectors", lambda: sound.svm(vectors_per_class=[6, -2])),
    ("svm: too few coefficients", "coefficients do not fit", lambda: sound.svm(coefficients=[1.0])),
    ("svm: too few constants", "constants do not fit", lambda: sound.svm(rho=None)),
    ("svm: one half of the probabilities", "probabilities do not fit", lambda: sound.svm(prob_b=None)),
    ("svm: a vector of NaN", "NaN or infinity", lambda: sound.svm(support_vectors=[NAN] * 12)),
    ("svm: vectors of four columns", "reads 4 columns of 3", lambda: sound.svm(support_vectors=[0.1] * 16)),
    ("svm: a kernel that does not exist", "kernel is unknown", lambda: sound.svm(kernel_type="MAGIC")),
    ("svm: a kernel without parameters", "three parameters", lambda: sound.svm(kernel_params=[0.1])),
]
NODES: Table = [
    (
        "svm: more supports than coefficients",
        "coefficients do not fit",
        lambda: sound.single("SVMRegressor", n_supports=9, coefficients=[1.0], support_vectors=[0.0] * 3, rho=[0.0]),
    ),
    (
        "coefficients of a part of a target",
        "do not fit its targets",
        lambda: sound.single("LinearRegressor", coefficients=[1.0] * 5, targets=2, intercepts=[0.0] * 2),
    ),
    ("a coefficient of NaN", "NaN or infinity", lambda: sound.single("LinearRegressor", coefficients=[1.0, NAN, 0.0])),
    (
        "coefficients of five columns",
        "reads 5 columns of 3",
        lambda: sound.single("LinearRegressor", coefficients=[1.0] * 5),
    ),
    ("offsets of other columns", "differ in length", lambda: sound.single("Scaler", offset=[0.0], scale=[1.0] * 3)),
    ("a scale of infinity", "NaN or infinity", lambda: sound.single("Scaler", offset=[0.0], scale=[INFINITY])),
    ("a norm that does not exist", "norm is unknown", lambda: sound.single("Normalizer", norm="L7")),
    (
        "more keys than values",
        "differ in length",
        lambda: sound.single("LabelEncoder", keys_floats=[1.0, 2.0], values_floats=[1.0]),
    ),
    (
        "categories of two types",
        "of one type",
        lambda: sound.single("OneHotEncoder", cats_int64s=[1], cats_strings=["a"]),
    ),
    ("an imputer of nothing", "of one type", lambda: sound.single("Imputer")),
    (
        "elements of a type that does not exist (crashes the ONNX 1.23 checker)",
        "type that is not allowed",
        lambda: sound.single("Cast", domain="", to=2**31),
    ),
    ("an attribute that does not exist", "no attribute", lambda: sound.single("Normalizer", nrm="L2")),
    ("an operator that nobody knows", "not allowed", lambda: sound.single("Frobnicate")),
    ("an operator of another domain", "com.evil.*not allowed", lambda: sound.single("Identity", domain="com.evil")),
    ("another operator of Microsoft's", "not allowed", lambda: sound.single("Inverse", domain="com.microsoft")),
    ("a map instead of numbers", "ZipMap.*not allowed", lambda: sound.single("ZipMap", classlabels_int64s=[0, 1, 2])),
]
TEXTS: Table = [
    ("text: a pattern of 300 characters", "longer than", lambda: sound.text(tokenexp="a" * 300)),
    ("text: a pattern that repeats by number", "repeats by number", lambda: sound.text(tokenexp="(a{999}){999}")),
    ("text: neither pattern nor separators", "expression or separators", lambda: sound.text(tokenexp=None)),
    ("text: words of no character", "mincharnum", lambda: sound.text(mincharnum=0)),
    ("text: an attribute too many", "not allowed", lambda: sound.text(stopwords=["a"])),
]
