"""Estimators: trees at their thresholds, pairs of classes, neighbours, and what has no equivalent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import ensemble, gaussian_process, neighbors, svm, tree
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import FunctionTransformer, PowerTransformer

from registry.errors import ConversionRefused
from tests.unit.one_step import classified, predicted, transformed

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(300, 4))
Y = X[:, 0] * 2.0 + X[:, 1] ** 2 + GENERATOR.normal(0, 0.1, 300)
KINDS = np.digitize(Y, [0.0, 1.5])


@pytest.mark.parametrize(
    "step",
    [
        tree.DecisionTreeRegressor(),
        tree.DecisionTreeRegressor(max_depth=1),
        tree.ExtraTreeRegressor(random_state=0),
        ensemble.RandomForestRegressor(10, random_state=0),
        ensemble.GradientBoostingRegressor(n_estimators=10),
    ],
    ids=repr,
)
def test_trees_decide_as_fitted_at_their_very_thresholds(step: Any) -> None:
    """At each threshold and its neighbours in both precisions."""
    step.fit(X, Y)
    members = np.ravel(getattr(step, "estimators_", [step]))
    edges = np.unique(np.concatenate([m.tree_.threshold[m.tree_.children_left != -1] for m in members]))[:200]
    narrow = edges.astype(np.float32).astype(np.float64)
    points = np.concatenate([edges, np.nextafter(edges, -9e9), np.nextafter(edges, 9e9), narrow])
    asked = np.column_stack([points] * 4)
    np.testing.assert_allclose(predicted(step, asked).ravel(), step.predict(asked), rtol=1e-12)


def test_a_tree_sends_nulls_where_it_learned_to() -> None:
    """Left in some nodes, right in others."""
    x = X.copy()
    x[GENERATOR.random(X.shape) < 0.2] = np.nan
    step = ensemble.RandomForestClassifier(10, random_state=0).fit(x, KINDS)
    np.testing.assert_allclose(classified(step, x)["probabilities"], step.predict_proba(x), rtol=1e-12)


def test_a_tree_of_one_leaf_answers() -> None:
    """Nothing to split on."""
    step = tree.DecisionTreeRegressor().fit(X[:5] * 0.0, np.full(5, 3.5))
    np.testing.assert_array_equal(predicted(step, X[:3]), np.full((3, 1), 3.5))


@pytest.mark.filterwarnings("ignore:The `probability` parameter:FutureWarning")
@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_of_a_support_vector_machine_are_libsvm_s(classes: int) -> None:
    """Coupled pair by pair, to the last digits; the label comes from the votes."""
    labels = np.minimum(KINDS, classes - 1)
    step = svm.SVC(probability=True, random_state=0).fit(X, labels)
    got = classified(step, X)
    np.testing.assert_allclose(got["probabilities"], step.predict_proba(X), rtol=1e-9)
    np.testing.assert_array_equal(step.classes_[got["chosen"].astype(int)], step.predict(X))


@pytest.mark.parametrize(
    "step",
    [
        svm.SVC(),
        svm.SVC(break_ties=True),
        svm.SVC(decision_function_shape="ovo", kernel="poly"),
        svm.SVC(kernel="sigmoid"),
        svm.NuSVC(nu=0.2),
        OneVsRestClassifier(LogisticRegression()),
        ensemble.GradientBoostingClassifier(n_estimators=5),
        ensemble.AdaBoostClassifier(LogisticRegression(), n_estimators=5),
    ],
    ids=repr,
)
def test_scores_are_the_decision_function(step: Any) -> None:
    """And the label is predict's, not the largest score's."""
    step.fit(X, KINDS)
    got = classified(step, X)
    np.testing.assert_allclose(got["decision"], step.decision_function(X), rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(step.classes_[got["chosen"].astype(int)], step.predict(X))


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("metric", ["euclidean", "manhattan", "chebyshev", "cosine", "minkowski"])
def test_neighbours_of_every_metric(metric: str, weights: str) -> None:
    """A fitted row is its own nearest neighbour: its weight is everything."""
    more = {"p": 3} if metric == "minkowski" else {}
    step = neighbors.KNeighborsClassifier(5, metric=metric, weights=weights, **more).fit(X, KINDS)
    asked = X if metric != "cosine" else X[:100] + 0.01
    np.testing.assert_allclose(classified(step, asked)["probabilities"], step.predict_proba(asked), atol=1e-9)


@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("inner", [LogisticRegression(), GaussianNB()], ids=["decision", "probabilities"])
def test_calibration_of_every_kind(method: str, classes: int, inner: Any) -> None:
    """The public converter is wrong on isotonic curves; ours are numpy's."""
    labels = np.minimum(KINDS, classes - 1)
    step = CalibratedClassifierCV(inner, method=method, cv=3).fit(X, labels)
    np.testing.assert_allclose(classified(step, X)["probabilities"], step.predict_proba(X), atol=1e-9)


@pytest.mark.parametrize(
    "step",
    [
        KernelRidge(kernel="rbf"),
        KernelRidge(kernel="poly", degree=2),
        gaussian_process.GaussianProcessRegressor(
            gaussian_process.kernels.Matern(nu=1.5) * 2.0 + gaussian_process.kernels.WhiteKernel(), optimizer=None
        ),
        gaussian_process.GaussianProcessRegressor(
            gaussian_process.kernels.DotProduct() + gaussian_process.kernels.RationalQuadratic(),
            alpha=0.1,
            optimizer=None,
        ),
        TransformedTargetRegressor(Ridge(), transformer=PowerTransformer()),
        TransformedTargetRegressor(Ridge(), transformer=PowerTransformer(standardize=False)),
        DummyRegressor(),
    ],
    ids=repr,
)
def test_other_regressors(step: Any) -> None:
    """Kernels between rows, and targets that were changed before the fit."""
    step.fit(X, Y)
    np.testing.assert_allclose(predicted(step, X * 1.5).ravel(), step.predict(X * 1.5), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "step",
    [
        svm.SVC(kernel=lambda a, b: a @ b.T),
        neighbors.KNeighborsClassifier(weights=lambda away: 1.0 / (away + 1.0)),
        neighbors.KNeighborsClassifier(metric="canberra"),
        DummyClassifier(strategy="stratified"),
        ensemble.VotingClassifier([("t", tree.DecisionTreeClassifier())]),
        OneVsRestClassifier(Ridge()),
    ],
    ids=["kernel", "weights", "metric", "random", "hard votes", "regressors"],
)
def test_what_has_no_equivalent_is_refused_with_a_way_out(step: Any) -> None:
    """Never a graph that answers something else."""
    with pytest.raises(ConversionRefused, match=f"step {type(step).__name__}") as caught:
        classified(step.fit(X, KINDS), X)
    assert caught.value.hint


def test_python_code_is_refused_wherever_it_hides() -> None:
    """As a step, with arguments, and as the inverse of a target's function."""
    with pytest.raises(ConversionRefused, match="Python code"):
        transformed(FunctionTransformer(lambda x: x * 2.0).fit(X), X)
    with pytest.raises(ConversionRefused, match="Python code"):
        transformed(FunctionTransformer(np.clip, kw_args={"a_min": 0.0, "a_max": 1.0}).fit(X), X)
    step = TransformedTargetRegressor(Ridge(), func=lambda y: y * 2.0, inverse_func=lambda y: y / 2.0).fit(X, Y)
    with pytest.raises(ConversionRefused, match="Python code"):
        predicted(step, X)
