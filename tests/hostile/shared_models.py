"""The eleven files that load in ONNX Runtime 1.31 and then crash or never end, fitted into bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd

from registry.bundle import seal
from registry.contract import Contract
from registry.golden import EXPECTED
from tests.hostile import sound

MODELS = sorted((Path(__file__).parent / "models").glob("*.onnx"))


def fitted(path: Path) -> tuple[onnx.ModelProto, Contract]:
    """The graph with the platform's names of tensors, and a contract for it: so that what is wrong is what is found."""
    made = onnx.load(path)
    crashes = path.name.startswith("crash")
    width = made.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    names = {made.graph.input[0].name: "numbers"}
    if not crashes:
        names[made.graph.output[0].name] = "prediction"
    for value in (*made.graph.input, *made.graph.output):
        value.name = names.get(value.name, value.name)
    for node in made.graph.node:
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]
    return made, sound.contract(classes=(0, 1, 2) if crashes else (), width=width)


def write(path: Path, folder: Path) -> Path:
    """A bundle of the graph, whose golden rows promise something: nobody can know what it answers."""
    made, contract = fitted(path)
    like = sound.tree_classes() if contract.output.classes else sound.trees()
    sound.write_bundle(folder, like, sound.contract(classes=contract.output.classes))
    (folder / "contract.json").write_text(json.dumps(contract.to_dict()))
    answer: Any = [[0.2, 0.3, 0.5]] if contract.output.classes else [[0.0]]
    rows = np.random.default_rng(0).normal(0.0, 1.0, (256, len(contract.numbers))).astype(np.float32)
    golden = pd.DataFrame(rows, columns=contract.names).assign(**{EXPECTED: pd.Series(answer * 256)})
    golden.to_parquet(folder / "golden.parquet", index=False)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    seal(folder)
    return folder
