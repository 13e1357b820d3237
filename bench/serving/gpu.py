"""Graphs on the GPU and on the CPU of one machine: `python -m bench.serving.gpu` prints the table of docs/gpu.md.

It needs an NVIDIA GPU that ONNX Runtime can use (`perene[gpu]`), says so where there is none, and ends with 2.
`--cpu-only` runs the CPU's columns alone, to try the script; nothing is saved then.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from bench.serving.machine import facts, save
from registry.contract import Column, Contract, Output
from registry.errors import ConfigInvalid
from registry.onnx_session import available_providers, open_session
from serving.devices.gpus import Gpus
from serving.devices.providers import attempts
from serving.devices.threads import usable_threads
from serving.engine import Engine, require_device
from serving.settings import GpuSettings

WIDTH = 512
BATCHES = (1, 8, 64, 256, 1_000, 10_000)
SECONDS = 1.0
"""Time for each cell."""
CONTRACT = Contract("gpu", tuple(Column(f"f{n}", "float", example=0.5) for n in range(WIDTH)), Output("regression"))
NEEDED = """This benchmark needs an NVIDIA GPU that ONNX Runtime can use, and this machine has none:
install `perene[gpu]` (CUDA and cuDNN as wheels) on a machine with a GPU and its driver, and run it there.
"""


@dataclass(frozen=True)
class Cell:
    """Milliseconds of one run (median), and rows in a second."""

    milliseconds: float
    rows_per_second: float


def perceptron(layers: Sequence[int]) -> bytes:
    """A multi-layer perceptron: every operator has a CUDA kernel."""
    rng = np.random.default_rng(0)
    nodes, weights, taken, before = [], [], "numbers", WIDTH
    for n, width in enumerate((*layers, 1)):
        last = n == len(layers)
        scale = np.float32(np.sqrt(2 / before))
        weights.append(numpy_helper.from_array(rng.normal(size=(before, width)).astype(np.float32) * scale, f"w{n}"))
        weights.append(numpy_helper.from_array(np.zeros(width, dtype=np.float32), f"b{n}"))
        given = "prediction" if last else f"h{n}"
        nodes.append(helper.make_node("Gemm", [taken, f"w{n}", f"b{n}"], [given]))
        if not last:
            nodes.append(helper.make_node("Relu", [given], [f"r{n}"]))
        taken, before = f"r{n}", width
    return _graph(nodes, weights)


def forest(trees: int, depth: int) -> bytes:
    """Boosted trees: no operator has a CUDA kernel."""
    rng = np.random.default_rng(0)
    inner, whole = 2**depth - 1, 2 ** (depth + 1) - 1
    at = list(range(whole))
    leaves = [n >= inner for n in at]
    attributes: dict[str, Any] = {
        "n_targets": 1,
        "nodes_treeids": [tree for tree in range(trees) for _ in at],
        "nodes_nodeids": at * trees,
        "nodes_featureids": [0 if leaf else int(rng.integers(WIDTH)) for _ in range(trees) for leaf in leaves],
        "nodes_modes": ["LEAF" if leaf else "BRANCH_LEQ" for leaf in leaves] * trees,
        "nodes_values": [float(rng.normal()) for _ in range(trees * whole)],
        "nodes_truenodeids": [0 if leaf else 2 * n + 1 for n, leaf in enumerate(leaves)] * trees,
        "nodes_falsenodeids": [0 if leaf else 2 * n + 2 for n, leaf in enumerate(leaves)] * trees,
        "target_treeids": [tree for tree in range(trees) for _ in range(inner + 1)],
        "target_nodeids": [n for n in at if leaves[n]] * trees,
        "target_ids": [0] * (trees * (inner + 1)),
        "target_weights": [float(rng.normal()) for _ in range(trees * (inner + 1))],
    }
    node = helper.make_node("TreeEnsembleRegressor", ["numbers"], ["prediction"], domain="ai.onnx.ml", **attributes)
    return _graph([node], [])


def _graph(nodes: Sequence[Any], weights: Sequence[Any]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 1])],
        weights,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


MODELS: dict[str, Callable[[], bytes]] = {
    "perceptron 3 x 1,024": lambda: perceptron((1024, 1024, 1024)),
    "perceptron 4 x 4,096": lambda: perceptron((4096, 4096, 4096, 4096)),
    "100 trees of depth 6": lambda: forest(100, 6),
}


def rows_of(count: int) -> dict[str, Any]:
    """So many rows."""
    return {"numbers": np.random.default_rng(count).normal(size=(count, WIDTH)).astype(np.float32)}


def timed(run: Callable[[], object], rows: int) -> Cell:
    """Run for a while, at least five times."""
    run()
    took: list[float] = []
    began = time.perf_counter()
    while len(took) < 5 or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    middle = statistics.median(took)
    return Cell(middle * 1e3, rows / middle)


def varied(run: Callable[[dict[str, Any]], object], *, seconds: float = 3 * SECONDS) -> float:
    """Rows in a second where every batch has another size, as batches of waiting requests have."""
    sizes = np.random.default_rng(1).integers(1, 257, size=400)
    batches = [rows_of(int(size)) for size in sizes]
    done, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        batch = batches[done % len(batches)]
        run(batch)
        done += 1
    return float(sum(len(batches[n % len(batches)]["numbers"]) for n in range(done)) / spent)


def measure(model: bytes, threads: int, *, gpu: bool) -> dict[str, Any]:
    """Every way to run one model, the answers compared with the CPU's."""
    engines = {
        "CPU, 1 thread": Engine(model, CONTRACT, device="cpu"),
        f"CPU, {threads} threads": Engine(model, CONTRACT, device="cpu", threads=threads),
    }
    found: dict[str, Any] = {"cells": {}, "varied": {}}
    memory = Gpus()
    if gpu:
        before, began = memory.memory_bytes(), time.perf_counter()
        engines["GPU"] = Engine(model, CONTRACT, device="cuda")
        engines["GPU"].warm(rows_of(1))
        found["load_s"] = time.perf_counter() - began
        found["gpu_memory_bytes"] = memory.memory_bytes() - before
        found["provider"] = engines["GPU"].provider
        found["placement"] = dict(engines["GPU"].placement)
        plain = open_session(model, attempts("cuda", GpuSettings(), available_providers())[0])
    for rows in BATCHES:
        batch = rows_of(rows)
        wanted = np.array(engines["CPU, 1 thread"].run(batch).predictions)
        for name, engine in engines.items():
            found["cells"].setdefault(name, {})[rows] = asdict(timed(lambda e=engine, b=batch: e.run(b), rows))  # type: ignore[misc]
            off = np.abs(np.array(engine.run(batch).predictions) - wanted) / np.maximum(1.0, np.abs(wanted))
            found.setdefault("difference", {})[name] = max(found.get("difference", {}).get(name, 0.0), float(off.max()))
        if gpu:
            cell = timed(lambda b=batch: plain.run(["prediction"], b), rows)  # type: ignore[misc]
            found["cells"].setdefault("GPU, plain session.run", {})[rows] = asdict(cell)
    for name, engine in engines.items():
        found["varied"][name] = varied(engine.run)
    if gpu:
        found["varied"]["GPU, plain session.run"] = varied(lambda batch: plain.run(["prediction"], batch))
    return found


def out_of_memory() -> dict[str, Any]:
    """A graph that does not fit into the memory it may take: told, and answered by the CPU."""
    told: list[str] = []
    model, batch = perceptron((4096, 4096, 4096, 4096)), rows_of(2_000)
    wanted = Engine(model, CONTRACT, device="cpu").run(batch).predictions
    tight = GpuSettings(memory_bytes=512 << 20, buckets=(1, 65_536))
    engine = Engine(model, CONTRACT, device="auto", gpu=tight, fell=told.append)
    before = engine.provider
    got = engine.run(batch).predictions
    return {
        "before": before,
        "after": engine.provider,
        "told": told,
        "equal": bool(np.allclose(got, wanted, rtol=1e-4)),
    }


def show(name: str, found: dict[str, Any]) -> None:
    """The table of one model, in Markdown."""
    print(f"\n### {name}\n")
    if "provider" in found:
        print(
            f"Runs on {found['provider']} (nodes: {found['placement']}), loaded and warm after {found['load_s']:.2f} s,"
            f" {found['gpu_memory_bytes'] / 2**20:.0f} MiB on the GPU.\n"
        )
    print("| rows | " + " | ".join(found["cells"]) + " |")
    print("|---" * (1 + len(found["cells"])) + "|")
    for rows in BATCHES:
        cells = (
            f"{c[rows]['milliseconds']:.3f} ms, {c[rows]['rows_per_second']:,.0f}/s" for c in found["cells"].values()
        )
        print(f"| {rows:,} | " + " | ".join(cells) + " |")
    print("| 1 to 256, varied | " + " | ".join(f"{rate:,.0f}/s" for rate in found["varied"].values()) + " |")
    print(
        "\nLargest relative difference from the CPU: "
        + ", ".join(f"{k} {v:.1e}" for k, v in found["difference"].items())
    )


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu-only", action="store_true", help="try the script without a GPU; saves nothing")
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    given = parser.parse_args()
    gpu = not given.cpu_only
    try:
        require_device("cuda" if gpu else "cpu")
    except ConfigInvalid:
        sys.stderr.write(NEEDED)
        return 2
    machine = facts() | {"gpus": [asdict(found) for found in Gpus().read()]}
    print(machine)
    threads = usable_threads(256)
    results = {name: measure(MODELS[name](), threads, gpu=gpu) for name in given.models}
    for name, found in results.items():
        show(name, found)
    if gpu:
        memory = out_of_memory()
        print(f"\nOut of memory: {memory}")
        save("gpu", {"machine": machine, "models": results, "out_of_memory": memory})
    return 0


if __name__ == "__main__":
    sys.exit(main())
