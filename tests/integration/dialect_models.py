"""Models of every kind of contract, made by hand: each answers from its column `hour`, and is named by its output."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper

from registry.bundle import seal
from registry.contract import Column, Contract, Output, Precision
from registry.golden import write_golden
from registry.parity import answers, predict_onnx
from registry.tensors import pack_frame

COLUMNS = (
    Column("temp", "float", nullable=True, example=1.5),
    Column("carrier", "string", example="AA"),
    Column("hour", "int", example=3),
    Column("late", "bool", example=True),
    Column("gate", "string", nullable=True, example="B2"),
)
NUMBERS = tuple(column for column in COLUMNS if column.dtype != "string")
SOFT, WORDS = ("ahead", "behind", "between"), ("low", "middle", "high")

CONTRACTS: dict[str, Contract] = {
    "regression": Contract("regression", COLUMNS, Output("regression")),
    "words": Contract("words", COLUMNS, Output("classification", WORDS)),
    "whole": Contract("whole", NUMBERS, Output("classification", (0, 1, 2))),
    "truth": Contract("truth", NUMBERS, Output("classification", (False, True))),
    "scores": Contract("scores", NUMBERS, Output("classification", WORDS, scores=SOFT)),
    "several": Contract("several", NUMBERS, Output("regression", targets=("up", "down"))),
    "precise": Contract("precise", NUMBERS, Output("regression"), "float64"),
    "single": Contract("single", (Column("hour", "int", example=3),), Output("regression")),
}


def make_bundles(base: Path, folder: Path) -> dict[str, Path]:
    """A bundle for each contract, from a sound one."""
    return {name: make_bundle(base, folder / name, contract) for name, contract in CONTRACTS.items()}


def make_bundle(base: Path, to: Path, contract: Contract) -> Path:
    """A bundle of this contract, from a sound one."""
    shutil.copytree(base, to)
    (to / "contract.json").write_text(json.dumps(contract.to_dict()))
    reference = json.loads((to / "reference.json").read_text())
    reference["columns"] = {k: v for k, v in reference["columns"].items() if k in contract.names}
    (to / "reference.json").write_text(json.dumps(reference))
    model = _graph(contract).SerializeToString()
    (to / "model.onnx").write_bytes(model)
    golden = pd.DataFrame(rows_of(contract, 20))
    write_golden(golden, answers(contract, predict_onnx(model, pack_frame(contract, golden))), to / "golden.parquet")
    seal(to)
    return to


def rows_of(contract: Contract, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of the contract, nulls and texts of every script among them."""
    chosen = random.Random(seed)
    values: dict[str, Callable[[], Any]] = {
        "temp": lambda: chosen.choice([None, 1.5, -2.25, 1e6, 0.0, float(np.float32(chosen.random()))]),
        "carrier": lambda: chosen.choice(["AA", "", "B6", 'a "quoted", text', "日本", "n/a:{}", "x\ny"]),
        "hour": lambda: chosen.randrange(-5, 24),
        "late": lambda: chosen.random() < 0.5,
        "gate": lambda: chosen.choice([None, "B2", "é"]),
    }
    return [{column.name: values[column.name]() for column in contract.columns} for _ in range(count)]


def _graph(contract: Contract) -> onnx.ModelProto:
    number = TensorProto.DOUBLE if contract.precision == "float64" else TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("numbers", number, [None, len(contract.numbers)])]
    if contract.strings:
        inputs.append(helper.make_tensor_value_info("strings", TensorProto.STRING, [None, len(contract.strings)]))
    names = [column.name for column in contract.numbers]
    at = helper.make_tensor("at", TensorProto.INT64, [1], [names.index("hour")])
    nodes = [helper.make_node("Gather", ["numbers", "at"], ["hour"], axis=1)]
    made, outputs, more = _answer(contract.output, number, contract.precision)
    graph = helper.make_graph([*nodes, *made], "toy", inputs, outputs, [at, *more])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _answer(output: Output, number: int, precision: Precision) -> tuple[list[Any], list[Any], list[Any]]:
    node, info = helper.make_node, helper.make_tensor_value_info
    if output.kind == "regression" and not output.targets:
        return [node("Identity", ["hour"], ["prediction"])], [info("prediction", number, [None, 1])], []
    if output.kind == "regression":
        nodes = [node("Neg", ["hour"], ["down"]), node("Concat", ["hour", "down"], ["prediction"], axis=1)]
        return nodes, [info("prediction", number, [None, 2])], []
    classes = output.classes
    weights = numpy_helper.from_array(np.linspace(-1, 1, len(classes), dtype=precision).reshape(1, -1), "weights")
    if isinstance(classes[0], str):
        kind, values = TensorProto.STRING, np.array([str(c) for c in classes], dtype=object)
    else:
        kind, values = TensorProto.INT64, np.array([int(c) for c in classes])
    named = numpy_helper.from_array(values, "classes")
    nodes = [
        node("MatMul", ["hour", "weights"], ["scores"]),
        node("Softmax", ["scores"], ["probabilities"], axis=1),
        node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
        node("Gather", ["classes", "best"], ["label"]),
    ]
    outputs = [info("label", kind, [None]), info("probabilities", number, [None, len(classes)])]
    outputs += [info("scores", number, [None, len(classes)])] if output.scores else []
    return nodes, outputs, [weights, named]
