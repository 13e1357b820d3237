"""Sound graphs and bundles, small and by hand: what the corpus spoils."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from onnx import NodeProto, TensorProto, helper

from registry.bundle import seal
from registry.contract import Column, Contract, Output
from registry.golden import CHOSEN, EXPECTED
from registry.parity import answers, onnx_runner
from registry.tensors import pack_frame

ML = "ai.onnx.ml"
NUMBERS = ("a", "b", "c")


def contract(*, classes: tuple[Any, ...] = (), texts: int = 0, width: int = len(NUMBERS)) -> Contract:
    """`width` numbers and some texts; a classification when there are classes."""
    names = NUMBERS if width == len(NUMBERS) else tuple(f"x{i}" for i in range(width))
    columns = [Column(name, "float", example=0.5) for name in names]
    columns += [Column(f"text{i}", "string", example="red apple") for i in range(texts)]
    output = Output("classification", classes) if classes else Output("regression")
    return Contract("toy", tuple(columns), output)


def rows(of: Contract, count: int = 32) -> pd.DataFrame:
    """Rows of a contract, always the same."""
    generator = np.random.default_rng(0)
    data: dict[str, Any] = {c.name: generator.normal(size=count).astype(np.float32) for c in of.numbers}
    words = np.array(["red apple", "green pear", "blue", "apple pear red"], dtype=object)
    data |= {c.name: words[generator.integers(0, len(words), count)] for c in of.strings}
    return pd.DataFrame(data)[of.names]


def model(
    nodes: Sequence[NodeProto],
    of: Contract,
    constants: Sequence[TensorProto] = (),
    *,
    opset: int = 18,
    ml: int = 3,
) -> onnx.ModelProto:
    """A graph with the contract's tensors in and out."""
    inputs = []
    if of.numbers:
        inputs.append(helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [None, len(of.numbers)]))
    if of.strings:
        inputs.append(helper.make_tensor_value_info("strings", TensorProto.STRING, [None, len(of.strings)]))
    if of.output.kind == "regression":
        outputs = [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 1])]
    else:
        kind = TensorProto.STRING if isinstance(of.output.classes[0], str) else TensorProto.INT64
        outputs = [
            helper.make_tensor_value_info("label", kind, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, len(of.output.classes)]),
        ]
    graph = helper.make_graph(list(nodes), "toy", inputs, outputs, list(constants))
    versions = [helper.make_opsetid("", opset), helper.make_opsetid(ML, ml), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=versions, ir_version=8)


def tree() -> dict[str, Any]:
    """Attributes of two trees of five nodes each, as `TreeEnsembleRegressor` wants them."""
    modes = ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"]
    leaves = [2, 3, 4]
    return {
        "n_targets": 1,
        "nodes_treeids": [0] * 5 + [1] * 5,
        "nodes_nodeids": [0, 1, 2, 3, 4] * 2,
        "nodes_featureids": [0, 1, 0, 0, 0, 2, 0, 0, 0, 0],
        "nodes_values": [0.1, -0.2, 0.0, 0.0, 0.0, 0.3, 0.4, 0.0, 0.0, 0.0],
        "nodes_modes": modes * 2,
        "nodes_truenodeids": [1, 2, 0, 0, 0] * 2,
        "nodes_falsenodeids": [4, 3, 0, 0, 0] * 2,
        "target_treeids": [0] * 3 + [1] * 3,
        "target_nodeids": leaves * 2,
        "target_ids": [0] * 6,
        "target_weights": [1.0, 2.0, 3.0, 0.5, 0.25, 0.125],
    }


def trees(**changed: Any) -> onnx.ModelProto:
    """A `TreeEnsembleRegressor` of two trees, with attributes replaced (None removes one)."""
    given = {name: value for name, value in (tree() | changed).items() if value is not None}
    node = helper.make_node("TreeEnsembleRegressor", ["numbers"], ["prediction"], domain=ML, **given)
    return model([node], contract())


def tree_classes(**changed: Any) -> onnx.ModelProto:
    """The same trees as a `TreeEnsembleClassifier` of three classes."""
    given = {name.replace("target_", "class_"): value for name, value in tree().items() if name != "n_targets"}
    given |= {"class_ids": [0, 1, 2] * 2, "classlabels_int64s": [0, 1, 2], "post_transform": "SOFTMAX"}
    given = {name: value for name, value in (given | changed).items() if value is not None}
    node = helper.make_node("TreeEnsembleClassifier", ["numbers"], ["label", "probabilities"], domain=ML, **given)
    return model([node], contract(classes=(0, 1, 2)))


def forest(**changed: Any) -> onnx.ModelProto:
    """A `TreeEnsemble` of opset 5: a tree of two branches, and one that asks for membership."""
    given: dict[str, Any] = {
        "aggregate_function": 1,
        "n_targets": 1,
        "tree_roots": [0, 2],
        "nodes_modes": tensor("modes", TensorProto.UINT8, [0, 0, 6]),
        "nodes_featureids": [0, 1, 2],
        "nodes_splits": tensor("splits", TensorProto.FLOAT, [0.1, -0.2, 0.0]),
        "nodes_truenodeids": [1, 0, 3],
        "nodes_trueleafs": [0, 1, 1],
        "nodes_falsenodeids": [2, 1, 4],
        "nodes_falseleafs": [1, 1, 1],
        "membership_values": tensor("members", TensorProto.FLOAT, [1.0, 3.0, float("nan")]),
        "leaf_targetids": [0] * 5,
        "leaf_weights": tensor("weights", TensorProto.FLOAT, [1.0, 2.0, 3.0, 0.5, 0.25]),
    }
    given = {name: value for name, value in (given | changed).items() if value is not None}
    node = helper.make_node("TreeEnsemble", ["numbers"], ["prediction"], domain=ML, **given)
    return model([node], contract(), ml=5)


def svm(**changed: Any) -> onnx.ModelProto:
    """An `SVMClassifier` of two classes with two support vectors each."""
    given: dict[str, Any] = {
        "classlabels_ints": [0, 1],
        "coefficients": [1.0, 0.5, -1.0, -0.5],
        "kernel_params": [0.5, 0.0, 3.0],
        "kernel_type": "RBF",
        "prob_a": [-1.0],
        "prob_b": [0.1],
        "rho": [0.2],
        "support_vectors": [0.1 * i for i in range(12)],
        "vectors_per_class": [2, 2],
    }
    given = {name: value for name, value in (given | changed).items() if value is not None}
    node = helper.make_node("SVMClassifier", ["numbers"], ["label", "probabilities"], domain=ML, **given)
    return model([node], contract(classes=(0, 1)))


def text(**changed: Any) -> onnx.ModelProto:
    """Words counted and weighed: `Tokenizer` of com.microsoft, `TfIdfVectorizer`, `LinearRegressor`."""
    given: dict[str, Any] = {"mark": 0, "mincharnum": 1, "pad_value": "#", "tokenexp": "[a-zA-Z0-9_]+"}
    given = {name: value for name, value in (given | changed).items() if value is not None}
    pool: dict[str, Any] = {"pool_strings": ["red", "apple", "pear"], "ngram_counts": [0], "ngram_indexes": [0, 1, 2]}
    grams: dict[str, Any] = {"min_gram_length": 1, "max_gram_length": 1, "max_skip_count": 0, "mode": "TF"}
    shape = tensor("shape", TensorProto.INT64, [-1])
    weights: dict[str, Any] = {"coefficients": [1.0, 2.0, 3.0], "intercepts": [0.5], "targets": 1}
    nodes = [
        helper.make_node("Reshape", ["strings", "shape"], ["flat"]),
        helper.make_node("Tokenizer", ["flat"], ["words"], domain="com.microsoft", **given),
        helper.make_node("TfIdfVectorizer", ["words"], ["counts"], **pool, **grams),
        helper.make_node("LinearRegressor", ["counts"], ["text_part"], domain=ML, **weights),
        helper.make_node("LinearRegressor", ["numbers"], ["rest"], domain=ML, **weights),
        helper.make_node("Add", ["text_part", "rest"], ["prediction"]),
    ]
    return model(nodes, contract(texts=1), [shape])


def single(operator: str, *, domain: str = ML, **attributes: Any) -> onnx.ModelProto:
    """One operator on the numbers."""
    node = helper.make_node(operator, ["numbers"], ["prediction"], domain=domain, **attributes)
    return model([node], contract())


def tensor(name: str, kind: int, values: Sequence[Any], dims: Sequence[int] | None = None) -> TensorProto:
    """A tensor of one dimension, or of `dims`."""
    return helper.make_tensor(name, kind, [len(values)] if dims is None else list(dims), list(values))


def write_bundle(folder: Path, graph: onnx.ModelProto, of: Contract, *, sound: onnx.ModelProto | None = None) -> Path:
    """A sealed bundle of `graph`; its golden rows hold what `sound` (or else `graph` itself) answers."""
    folder.mkdir(parents=True)
    frame = rows(of)
    said = answers(of, onnx_runner((sound or graph).SerializeToString())(pack_frame(of, frame)))
    golden = frame.assign(**{EXPECTED: said.values.tolist()})
    if said.labels is not None:
        golden[CHOSEN] = said.labels
    golden.to_parquet(folder / "golden.parquet", index=False)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    quality = {"n": 1, "loss": 0.1, "loss_sd": None, "cap": 1.0, "metric": "mae", "value": 0.1}
    number = {"kind": "number", "edges": [0.0], "minimum": -3.0, "maximum": 3.0, "counts": [0] * 6}
    reference = {"rows": 1, "columns": {}, "score": number, "quality": quality, "window": {"start": None, "end": None}}
    files = {"contract": of.to_dict(), "certificate": {"verdict": "exact"}, "reference": reference}
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    (folder / "card.md").write_text("# toy\n")
    seal(folder)
    return folder
