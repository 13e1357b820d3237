"""Explanations of real families as they are served: which are read as trees, and that everything adds up."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest

from registry.contract import Contract
from registry.convert import convert
from registry.explain import forest
from registry.explain.explainer import Explainer, Explanation
from registry.infer import infer_contract
from registry.native.process import dump
from registry.tensors import pack_frame
from tests.conftest import Toy
from tests.families import boosting_cases, sklearn_cases
from tests.families.case import Case
from tests.families.rows import weather
from tests.families.serving import converted

CASES = {case.key: case for case in (*sklearn_cases.CASES, *boosting_cases.CASES)}
TREES = {
    "lightgbm-categories": "prediction",
    "lightgbm-pipeline": "log_odds",
    "lightgbm-multiclass": "margin",
    "lightgbm-poisson": "log_prediction",
    "xgboost-categories": "prediction",
    "xgboost-missing": "prediction",
    "xgboost-pipeline": "log_odds",
    "catboost-categories": "prediction",
    "random-forest-nulls": "probability",
    "extra-trees": "probability",
    "multi-output-forest": "prediction",
}
"""Families and the number that their trees add up to."""
ASKED = {"logistic-regression": "permutation", "one-hot": "permutation", "polynomial": "permutation"}


def opened(case: Case) -> tuple[Explainer, dict[str, Any]]:
    """The family, and three rows of it."""
    _, frame, _, made = converted(case)
    explainer = Explainer(made.contract, made.file, made.data, frame.head(500))
    return explainer, pack_frame(made.contract, frame.sample(3, random_state=1))


def require_sums(found: list[Explanation], contract: Contract) -> None:
    for one in found:
        assert len(one.attributions) == len(contract.columns)
        assert one.base + sum(one.attributions) == pytest.approx(one.value, rel=1e-4, abs=1e-6)
        assert one.error == pytest.approx(abs(one.base + sum(one.attributions) - one.value), abs=1e-12)
        assert any(one.attributions)


@pytest.mark.parametrize("key", TREES)
def test_trees_are_read_out_of_the_graph_and_add_up(key: str) -> None:
    """Categories, nulls and encoders included; the number is measured by ONNX Runtime, not by us."""
    explainer, rows = opened(CASES[key])
    found = explainer.explain(rows)
    assert {(one.method, one.output) for one in found} == {("tree", TREES[key])}
    require_sums(found, explainer.contract)


@pytest.mark.parametrize("key", ASKED)
def test_other_models_are_asked_about_mixes_and_add_up(key: str) -> None:
    """Whatever the model is, on the scale of its answer."""
    explainer, rows = opened(CASES[key])
    found = explainer.explain(rows)
    assert {one.method for one in found} == {ASKED[key]}
    assert max(one.error for one in found) < 1e-9
    require_sums(found, explainer.contract)


def test_a_native_model_is_asked_in_its_own_process(regression: Toy) -> None:
    """The original answers the mixes; nothing of it is loaded here."""
    contract = infer_contract(regression.estimator, regression.X, "toy")
    explainer = Explainer(contract, *dump(regression.estimator), regression.X.head(64))
    try:
        found = explainer.explain(pack_frame(contract, regression.X.tail(2)))
    finally:
        explainer.close()
    assert {one.method for one in found} == {"exact"}
    assert [one.value for one in found] == pytest.approx(regression.estimator.predict(regression.X.tail(2)).tolist())
    require_sums(found, contract)


def test_trees_give_what_asking_about_every_mix_gives(regression: Toy) -> None:
    """Two ways to the same number: one reads the trees, the other only asks the graph. Text, nulls, a boolean."""
    contract = infer_contract(regression.estimator, regression.X, "toy")
    made = convert(regression.estimator, contract, regression.X)
    explainer = Explainer(made.contract, made.file, made.data, regression.X.head(64))
    rows = pack_frame(made.contract, regression.X.tail(5))
    trees, mixes = explainer.explain(rows), explainer.explain(rows, "permutation")
    assert {(one.method, other.method) for one, other in zip(trees, mixes, strict=True)} == {("tree", "exact")}
    for one, other in zip(trees, mixes, strict=True):
        # float32 answers on one side
        np.testing.assert_allclose(one.attributions, other.attributions, atol=1e-4)
        assert one.base == pytest.approx(other.base, abs=1e-4)


def test_trees_give_what_shap_gives() -> None:
    """An independent witness, where it can be one: numbers without nulls, a player for each."""
    import lightgbm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its plots need what matplotlib will not have for ever
        import shap  # type: ignore[import-untyped]

    frame, target = weather()
    model = lightgbm.LGBMRegressor(n_estimators=40, num_leaves=15, verbose=-1).fit(frame, target)
    made = convert(model, infer_contract(model, frame, "witness"), frame)
    background, rows = frame.head(64), frame.tail(4)
    explainer = Explainer(made.contract, made.file, made.data, background)
    witness = shap.TreeExplainer(model, background, feature_perturbation="interventional")
    wanted = witness.shap_values(rows, check_additivity=False)
    got = explainer.explain(pack_frame(made.contract, rows))
    np.testing.assert_allclose([one.attributions for one in got], wanted, rtol=1e-4, atol=1e-5)


def test_trees_that_are_read_wrongly_are_not_believed(regression: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the check: with attributions that are off, the model is asked instead."""
    contract = infer_contract(regression.estimator, regression.X, "toy")
    made = convert(regression.estimator, contract, regression.X)
    explainer = Explainer(made.contract, made.file, made.data, regression.X.head(64))
    right = forest.shapley
    monkeypatch.setattr(forest, "shapley", lambda *given: right(*given) * 1.01)
    found = explainer.explain(pack_frame(made.contract, regression.X.tail(3)))
    assert {one.method for one in found} == {"exact"}
    require_sums(found, made.contract)


def test_a_feature_made_of_several_columns_is_no_player() -> None:
    """Trees behind a step that mixes columns are not read: the model is asked."""
    frame, target = weather()
    from sklearn.decomposition import PCA
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(PCA(3), RandomForestRegressor(5, max_depth=4, random_state=0)).fit(frame, target)
    made = convert(model, infer_contract(model, frame, "mixed"), frame)
    mixed = Explainer(made.contract, made.file, made.data, frame.head(64))
    assert "TreeEnsemble" in {node.op_type for node in onnx.load_from_string(made.data).graph.node}
    assert mixed.trees is None
    require_sums(mixed.explain(pack_frame(made.contract, frame.tail(2))), made.contract)
