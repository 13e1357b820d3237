"""What really runs is what is said to run; shapes that repeat, memory that is bound, and the CPU as a spare.

No GPU is pretended here: shapes, binding and the spare are the same code whatever the provider is, and run on real
sessions on the CPU. What needs a GPU is asked of ONNX Runtime, and follows what it answers.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from registry.bundle import read_bundle
from registry.contract import Column, Contract, Output
from registry.errors import BundleCorrupt, ConfigInvalid
from registry.onnx_session import CPU, available_providers, nodes_by_provider, open_session
from serving.devices.providers import CUDA, attempts
from serving.devices.shapes import Array, Bound, Bucketed, Tensors, can_bind, parts
from serving.devices.spare import WithSpare
from serving.engine import _IDENTITY, Engine, require_device
from serving.errors import InferenceFailed
from serving.settings import GpuSettings

CONTRACT = Contract("toy", (Column("a", "float", example=1.0),), Output("regression"))


def graph(nodes: list[Any], tensors: Sequence[Any] = (), *, text: bool = False) -> bytes:
    """A graph from `numbers` [N, 1] to `prediction` [N, 1], and to `label`, a text, if asked for."""
    outputs = [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 1])]
    if text:
        outputs.append(helper.make_tensor_value_info("label", TensorProto.STRING, [None, 1]))
    taken = [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [None, 1])]
    made = helper.make_graph(nodes, "g", taken, outputs, list(tensors))
    data = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(data)
    return bytes(data.SerializeToString())


DOUBLE = graph([helper.make_node("Add", ["numbers", "numbers"], ["prediction"])])
ONE_ROW = graph(
    [helper.make_node("Reshape", ["numbers", "shape"], ["prediction"])],
    [helper.make_tensor("shape", TensorProto.INT64, [2], [1, 1])],
)
"""Answers one row; a session over it really fails on two, as one that is out of memory fails on many."""


def numbers(*values: float) -> dict[str, Array]:
    return {"numbers": np.array(values, dtype=np.float32).reshape(-1, 1)}


def test_cpu_and_auto_start_anywhere() -> None:
    """Nothing to refuse."""
    require_device("cpu")
    require_device("auto")


def test_cuda_without_a_gpu_refuses_to_start() -> None:
    """ONNX Runtime would fall back in silence; here the answer is what its own session says."""
    if has_gpu():
        require_device("cuda")
        return
    with pytest.raises(ConfigInvalid, match="no usable GPU"):
        require_device("cuda")
    with pytest.raises(ConfigInvalid, match="no usable GPU"):
        Engine(DOUBLE, CONTRACT, device="cuda")


@pytest.mark.parametrize("gpu", [GpuSettings(), GpuSettings(tensorrt=True, memory_bytes=1 << 26)])
def test_auto_says_what_it_fell_back_to(gpu: GpuSettings) -> None:
    """It answers whatever the machine has, names the provider that really runs, and tells of a fallback."""
    told: list[str] = []
    engine = Engine(DOUBLE, CONTRACT, device="auto", gpu=gpu, fell=told.append)
    assert engine.run(numbers(1, 2)).predictions == [2.0, 4.0]
    wanted_gpu = CUDA in available_providers()
    if has_gpu():
        assert engine.provider != CPU
        assert engine.buckets == (1, 8, 64, 256)
    else:
        assert engine.provider == CPU
        assert told == (["no usable GPU"] if wanted_gpu else [])
        assert engine.buckets == ()


def test_a_gpu_build_without_a_gpu_prints_nothing_and_goes_on() -> None:
    """ONNX Runtime's own fallback writes to the terminal; ours is a log line and a count."""
    code = (
        "from registry.contract import Contract, Output\n"
        "from serving.engine import _IDENTITY, Engine, GpuSettings\n"
        "Engine(_IDENTITY, Contract('x', (), Output('regression')), gpu=GpuSettings(tensorrt=True))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_bytes_that_are_no_graph_are_refused() -> None:
    """On every device, in our words."""
    with pytest.raises(BundleCorrupt, match="does not load"):
        Engine(b"no graph", CONTRACT)


def test_nodes_are_counted_where_they_were_placed() -> None:
    """What ONNX Runtime says of its own placement, which `registry.parity.placement` can only expect."""
    wanted = attempts("auto", GpuSettings(), [CUDA, CPU])[0] if CUDA in available_providers() else [CPU, CPU]
    session = open_session(DOUBLE, wanted if CUDA in available_providers() else [(CPU, {})])
    assert sum(nodes_by_provider(session).values()) == 1
    if not has_gpu():
        assert nodes_by_provider(session) == {CPU: 1}


def test_parts_cover_every_row_once_in_few_sizes() -> None:
    """For any number of rows."""
    buckets = (1, 8, 64)
    for rows in range(1, 300):
        found = parts(rows, buckets)
        assert [row for start, end, _ in found for row in range(start, end)] == list(range(rows))
        assert all(size in buckets and end - start <= size for start, end, size in found)


def test_filled_up_rows_are_not_answered() -> None:
    """Every count of rows gets the answers that the bare session gives, through three shapes only."""
    session = open_session(DOUBLE)
    shapes: set[int] = set()

    def run(tensors: Tensors) -> Sequence[Array]:
        shapes.add(len(tensors["numbers"]))
        return session.run(["prediction"], dict(tensors))  # type: ignore[no-any-return]

    bucketed = Bucketed(run, (64, 1, 8))
    for count in (1, 2, 8, 9, 63, 64, 65, 200):
        given = numbers(*range(count))
        (found,) = bucketed(given)
        np.testing.assert_array_equal(found, session.run(["prediction"], given)[0])
    assert shapes == {1, 8, 64}


def test_texts_are_filled_up_like_numbers(toy_bundle: Path) -> None:
    """A real model of numbers and texts answers alike with and without buckets."""
    bundle = read_bundle(toy_bundle)
    session = open_session(bundle.model_bytes())
    rng = np.random.default_rng(0)
    width = len(bundle.contract.numbers)
    texts = len(bundle.contract.columns) - width
    given = {
        "numbers": rng.uniform(0, 5, (11, width)).astype(np.float32),
        "strings": rng.choice(np.array(["AA", "B6", ""], dtype=object), (11, texts)),
    }
    (found,) = Bucketed(lambda tensors: session.run(["prediction"], dict(tensors)), (1, 4))(given)
    np.testing.assert_array_equal(found, session.run(["prediction"], given)[0])


def test_bound_memory_gives_each_run_its_own_answers() -> None:
    """The same buffers serve run after run and many threads, and what was answered stays as it was."""
    session = open_session(DOUBLE)
    bound = Bound(session, ["prediction"], "cpu")
    (first,) = bound(numbers(1, 2))
    (second,) = bound(numbers(3, 4))
    assert (first.ravel().tolist(), second.ravel().tolist()) == ([2.0, 4.0], [6.0, 8.0])
    wrong: list[float] = []

    def ask(value: float) -> None:
        for _ in range(200):
            (found,) = bound(numbers(value, value))
            wrong.extend(v for v in found.ravel().tolist() if v != 2 * value)

    threads = [threading.Thread(target=ask, args=(value,)) for value in (1.0, 2.0, 3.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_texts_are_never_bound(toy_bundle: Path) -> None:
    """ONNX Runtime refuses them as inputs, and as outputs it can end the process: plain runs take their place."""
    text = graph(
        [
            helper.make_node("Identity", ["numbers"], ["prediction"]),
            helper.make_node("Cast", ["numbers"], ["label"], to=8),
        ],
        text=True,
    )
    assert can_bind(open_session(DOUBLE), ["prediction"])
    assert can_bind(open_session(text), ["prediction"])
    assert not can_bind(open_session(text), ["prediction", "label"])
    assert not can_bind(open_session(read_bundle(toy_bundle).model_bytes()), ["prediction"])


def test_what_fails_on_the_first_session_is_answered_by_the_spare_from_then_on() -> None:
    """A session that really fails; the rows that it failed on get their answer, and the change is told once."""
    told: list[Exception] = []
    first, spare = open_session(ONE_ROW), open_session(DOUBLE)
    asked: list[int] = []

    def limited(tensors: Tensors) -> Sequence[Array]:
        asked.append(len(tensors["numbers"]))
        return first.run(["prediction"], dict(tensors))  # type: ignore[no-any-return]

    run = WithSpare(limited, lambda: lambda tensors: spare.run(["prediction"], dict(tensors)), told.append)
    assert run(numbers(3))[0].ravel().tolist() == [3.0]
    assert told == []
    assert run(numbers(3, 4))[0].ravel().tolist() == [6.0, 8.0]
    assert run(numbers(5))[0].ravel().tolist() == [10.0]
    assert len(told) == 1
    assert asked == [1, 2]


def test_rows_that_fail_on_both_move_nothing() -> None:
    """Callers must not be able to send a model to the CPU with rows that no session can answer."""
    told: list[Exception] = []
    first, spare = open_session(ONE_ROW), open_session(ONE_ROW)

    def of(session: Any) -> Any:
        return lambda tensors: session.run(["prediction"], dict(tensors))

    run = WithSpare(of(first), lambda: of(spare), told.append)
    with pytest.raises(Exception, match="reshape"):
        run(numbers(1, 2))
    assert told == []
    assert run(numbers(1))[0].ravel().tolist() == [1.0]


def test_a_graph_that_fails_is_told_in_our_words(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of ONNX Runtime's message, which may hold shapes and names."""
    engine = Engine(ONE_ROW, CONTRACT, device="cpu")
    with caplog.at_level(logging.DEBUG), pytest.raises(InferenceFailed) as failed:
        engine.run(numbers(1, 2))
    assert "reshape" not in json.dumps(failed.value.args).lower() + caplog.text.lower()


def has_gpu() -> bool:
    """Whether a session of ONNX Runtime really gets a GPU here."""
    if CUDA not in available_providers():
        return False
    return CUDA in open_session(_IDENTITY, [CUDA, CPU]).get_providers()
