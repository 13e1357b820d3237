"""What answers with less than was asked for says so: in a metric, in the log and in `/readyz?verbose`."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from registry.onnx_session import available_providers
from serving.devices.providers import CUDA
from serving.state import Failure
from tests.integration.serving_app import SCOPES, metrics, run
from tests.integration.serving_toy import ROW, Cache, Served, one_row_bundle, serving
from tests.integration.test_serving_engine import has_gpu


async def told(served: Served) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await served.client.get("/readyz?verbose")).json()["fallbacks"]
    return found


def test_a_candidate_that_fails_is_named(
    cache: Cache, offsets: dict[int, Path], toy_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The champion answers, each time counted, once logged; the note goes with the candidate."""
    cache.add(1, offsets[1])
    cache.add(2, one_row_bundle(toy_bundle, cache.folder.parent / "broken"))
    key = cache.key(SCOPES)
    cache.deploy(1, 2, "ab", 1.0)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            await served.predict()
            assert await told(served) == []
            for _ in range(3):
                assert (await served.predict([ROW, ROW]))["version"] == 1
            expected = {"model": "toy", "version": 2, "kind": "candidate", "reason": "inference_failed"}
            assert await told(served) == [expected]
            assert (await metrics(served))["perene_fallbacks_total", ("toy", "candidate")] == 3
            cache.deploy(1)

            async def forgotten() -> bool:
                return await told(served) == []

            await served.until(forgotten)

    with caplog.at_level(logging.WARNING):
        run(scenario)
    assert [record.message for record in caplog.records].count("serving.fell_back") == 1


def test_a_candidate_that_does_not_load_is_named(cache: Cache, offsets: dict[int, Path]) -> None:
    """Everybody is answered by the champion, and both the failure and what it led to are told."""
    cache.add(1, offsets[1])
    folder = cache.add(2, offsets[2])
    shutil.rmtree(folder)
    key = cache.key(SCOPES)
    cache.deploy(1, 2, "ab", 1.0)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            assert (await served.predict())["version"] == 1
            expected = {"model": "toy", "version": 2, "kind": "candidate", "reason": "it is not loaded"}
            assert await told(served) == [expected]
            failures = (await served.client.get("/readyz?verbose")).json()["failures"]
            assert [Failure(**f).version for f in failures] == [2]
            assert (await metrics(served))["perene_fallbacks_total", ("toy", "candidate")] == 1

    run(scenario)


def test_auto_without_a_gpu_says_that_the_cpu_answers(cache: Cache, offsets: dict[int, Path]) -> None:
    """What is published is what ONNX Runtime's session says, whatever this machine has."""
    cache.add(1, offsets[1])
    key = cache.key(SCOPES)
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, key, device="auto") as served:
            await served.predict()
            facts = (await served.client.get("/models/toy")).json()
            samples = await metrics(served)
            info = [labels for (name, labels), _ in samples.items() if name == "perene_model_loaded_info"]
            assert [facts["provider"] in labels for labels in info] == [True]
            # what the process grew by: nothing where an earlier test's memory was free
            assert [v >= 0 for (name, _), v in samples.items() if name == "perene_session_memory_bytes"] == [True]
            gauges = [
                name for name, _ in samples if name in ("perene_gpu_memory_bytes", "perene_gpu_utilization_ratio")
            ]
            if has_gpu():
                assert len(gauges) >= 2
                return
            assert facts["provider"] == "CPUExecutionProvider"
            assert gauges == []
            reason = {"model": "toy", "version": 1, "kind": "gpu", "reason": "no usable GPU"}
            assert await told(served) == ([reason] if CUDA in available_providers() else [])

    run(scenario)
