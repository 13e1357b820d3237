"""A ready ONNX graph: put behind the contract's tensors, it answers as it did before."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn, to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from registry.errors import ConversionRefused
from registry.infer import infer_contract
from tests.integration.export_parity import assert_exact, certificate, classes, numbers, target


def _rows() -> pd.DataFrame:
    return numbers().fillna(1.0).astype(np.float32)


def _matmul(weights: npt.NDArray[np.float32], activation: str, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """One layer, as another tool would write it."""
    nodes = [
        helper.make_node("Cast", ["data"], ["narrow"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["narrow", "weights"], ["raw"]),
        helper.make_node(activation, ["raw"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("data", kind, [None, len(weights)])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None, weights.shape[1]])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _weights(width: int) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(0).normal(size=(5, width)) / 100).astype(np.float32)


@pytest.mark.parametrize("zipmap", [True, False])
@pytest.mark.parametrize("kind", [int, str])
def test_a_classifier_of_one_matrix(kind: type, zipmap: bool) -> None:
    """With trees of an older set of operators; dictionaries of probabilities become a matrix."""
    rows = _rows()
    estimator = RandomForestClassifier(5, random_state=0).fit(rows.to_numpy(), classes(rows, 3).astype(kind))
    target_opset = {"": 15, "ai.onnx.ml": 3}
    graph = to_onnx(estimator, rows.to_numpy()[:1], options={"zipmap": zipmap}, target_opset=target_opset)
    assert infer_contract(graph, rows, "ready").output.classes == tuple(kind(n) for n in range(3))
    assert_exact(graph, rows)


def test_inputs_named_as_the_columns() -> None:
    """Numbers, whole numbers and text, one input each."""
    rows = _rows()[["normal", "whole"]].assign(whole=numbers()["whole"], text=numbers()["whole"].mod(3).map(str))
    before = make_column_transformer((OneHotEncoder(), ["text"]), remainder="passthrough", sparse_threshold=0.0)
    inputs = [
        ("text", StringTensorType([None, 1])),
        ("whole", Int64TensorType([None, 1])),
        ("normal", FloatTensorType([None, 1])),
    ]
    estimator = make_pipeline(before, Ridge()).fit(rows[["text", "whole", "normal"]], target(numbers()))
    assert_exact(convert_sklearn(estimator, initial_types=inputs), rows)


def test_one_output_is_a_regression() -> None:
    """Of as many numbers as it is wide; its input may be double."""
    rows = _rows()
    assert_exact(_matmul(_weights(1), "Softplus"), rows)
    wide = _matmul(_weights(2), "Tanh", TensorProto.DOUBLE)
    assert infer_contract(wide, rows, "ready").output.targets == ("target_0", "target_1")
    assert_exact(wide, rows)


@pytest.mark.parametrize(("width", "activation"), [(3, "Softmax"), (1, "Sigmoid")])
def test_one_output_with_classes_in_the_metadata_is_a_classification(width: int, activation: str) -> None:
    """A probability of each class, or of the second of two."""
    rows, names = _rows(), ["a", "b", "c"][: max(2, width)]
    graph = _matmul(_weights(width), activation)
    helper.set_model_props(graph, {"classes": json.dumps(names)})
    assert infer_contract(graph, rows, "ready").output.classes == tuple(names)
    assert_exact(graph, rows)


def _logistic() -> Any:
    rows = _rows()
    return to_onnx(LogisticRegression(max_iter=50).fit(rows.to_numpy() / 1e6, classes(rows, 2)), rows.to_numpy()[:1])


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (_rows().drop(columns="flag"), "takes 5 columns"),
        (_rows().assign(text="a"), "not the columns"),
    ],
)
def test_other_columns_than_its_inputs_are_refused(rows: pd.DataFrame, reason: str) -> None:
    """Too few, or of another type."""
    with pytest.raises(ConversionRefused, match=reason):
        certificate(_logistic(), rows)


def test_nulls_where_whole_numbers_are_taken_are_refused() -> None:
    """There is no null among integers."""
    rows = numbers()
    with pytest.raises(ConversionRefused, match="takes no null"):
        certificate(_matmul(_weights(1), "Relu", TensorProto.INT64), rows)


def test_a_broken_graph_is_refused() -> None:
    """Before anything runs it."""
    graph = _matmul(_weights(1), "Relu")
    graph.graph.node[0].input[0] = "nothing"
    with pytest.raises(ConversionRefused, match="not a valid graph"):
        infer_contract(graph, _rows(), "ready")
