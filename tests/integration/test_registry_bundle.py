"""A bad artifact never gets through: digests, golden rows, crashes, hangs, forbidden operators."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from registry.bundle import FILES, read_bundle, seal
from registry.errors import BundleCorrupt
from registry.sandbox import check_in_child

Copy = Callable[[], Path]
HOSTILE = sorted((Path(__file__).parent / "hostile").glob("*.onnx"))


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_any_file_is_found(name: str, copied_bundle: Copy) -> None:
    """The manifest covers every file."""
    folder = copied_bundle()
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(BundleCorrupt, match=name):
        read_bundle(folder)


def test_a_truncated_missing_or_linked_file_is_found(copied_bundle: Copy) -> None:
    """Each is named."""
    truncated = copied_bundle()
    (truncated / "model.onnx").write_bytes((truncated / "model.onnx").read_bytes()[:100])
    missing = copied_bundle()
    (missing / "card.md").unlink()
    linked = copied_bundle()
    shutil.move(linked / "model.onnx", linked.parent / "elsewhere.onnx")
    (linked / "model.onnx").symlink_to(linked.parent / "elsewhere.onnx")
    for folder, name in ((truncated, "model.onnx"), (missing, "card.md"), (linked, "model.onnx")):
        with pytest.raises(BundleCorrupt, match=name):
            read_bundle(folder)


def test_bytes_swapped_after_the_check_are_not_run(copied_bundle: Copy) -> None:
    """`model_bytes` checks again."""
    folder = copied_bundle()
    bundle = read_bundle(folder)
    (folder / "model.onnx").write_bytes(b"other")
    with pytest.raises(BundleCorrupt, match="changed"):
        bundle.model_bytes()


def test_a_good_bundle_passes_in_the_child(toy_bundle: Path) -> None:
    """The control of the tests below."""
    check_in_child(toy_bundle)


def test_other_answers_than_promised_are_found(copied_bundle: Copy) -> None:
    """A sealed bundle whose golden rows expect something else."""
    import pandas as pd

    folder = copied_bundle()
    golden = pd.read_parquet(folder / "golden.parquet")
    golden["_expected"] += 1.0
    golden.to_parquet(folder / "golden.parquet", index=False)
    seal(folder)
    with pytest.raises(BundleCorrupt, match="other answers"):
        check_in_child(folder)


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.stem)
def test_a_graph_that_crashes_or_hangs_kills_only_the_child(path: Path, copied_bundle: Copy) -> None:
    """Each of these loads cleanly in ONNX Runtime 1.31 and then segfaults or never returns."""
    folder = copied_bundle()
    model = onnx.load(path)
    shutil.copy(path, folder / "model.onnx")
    _promise_inputs_of(model, folder)
    seal(folder)
    with pytest.raises(BundleCorrupt):
        check_in_child(folder, seconds=4)


def _promise_inputs_of(model: onnx.ModelProto, folder: Path) -> None:
    """Make contract and golden rows fit the hostile graph, so that it is really run."""
    import numpy as np
    import pandas as pd

    graph_input = model.graph.input[0]
    width = graph_input.type.tensor_type.shape.dim[1].dim_value or 10
    graph_input.name, old = "numbers", graph_input.name
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = "numbers"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    names = [f"x{i}" for i in range(width)]
    column = {
        "dtype": "float",
        "nullable": False,
        "minimum": 0.0,
        "maximum": 1.0,
        "categories": None,
        "policy": "store",
        "example": 0.5,
    }
    contract = {
        "model": "toy",
        "columns": [{"name": name, **column} for name in names],
        "output": {"kind": "regression", "classes": []},
    }
    (folder / "contract.json").write_text(json.dumps(contract))
    rows = np.random.default_rng(0).normal(size=(64, width)).astype(np.float32)
    pd.DataFrame(rows, columns=names).assign(_expected=0.0).to_parquet(folder / "golden.parquet", index=False)


def test_loops_foreign_operators_and_external_data_are_refused(copied_bundle: Copy) -> None:
    """Refused before anything is run, with the operator's name."""
    x = helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [None, 3])
    y = helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 3])
    foreign = helper.make_node("Identity", ["numbers"], ["prediction"], domain="com.evil")
    body = helper.make_graph([], "body", [], [])
    loop = helper.make_node("Loop", ["", ""], ["prediction"], body=body)
    outside = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    outside.data_location = TensorProto.EXTERNAL
    add = helper.make_node("Add", ["numbers", "w"], ["prediction"])
    cases: tuple[tuple[onnx.NodeProto, list[onnx.TensorProto], str], ...] = (
        (foreign, [], "com.evil"),
        (loop, [], "Loop"),
        (add, [outside], "outside"),
    )
    for node, initializers, says in cases:
        folder = copied_bundle()
        graph = helper.make_graph([node], "g", [x], [y], initializer=initializers)
        (folder / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
        seal(folder)
        with pytest.raises(BundleCorrupt, match=says):
            check_in_child(folder)


def test_a_pickle_named_onnx_is_never_unpickled(copied_bundle: Copy, tmp_path: Path) -> None:
    """A canary that a pickle would touch stays untouched."""
    import pickle

    canary = tmp_path / "canary"
    folder = copied_bundle()
    (folder / "model.onnx").write_bytes(pickle.dumps(_Bomb(str(canary))))
    seal(folder)
    with pytest.raises(BundleCorrupt, match="not an ONNX graph"):
        check_in_child(folder)
    assert not canary.exists()


class _Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")
