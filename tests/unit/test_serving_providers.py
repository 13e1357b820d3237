"""Which providers are tried, in which order, with which options."""

from __future__ import annotations

import pytest

from registry.onnx_session import CPU
from serving.devices.providers import CUDA, TENSORRT, Device, attempts, preload
from serving.settings import GpuSettings

EVERYTHING = [TENSORRT, CUDA, CPU]
OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}


@pytest.mark.parametrize(
    ("device", "tensorrt", "available", "expected"),
    [
        ("cpu", True, EVERYTHING, [[CPU]]),
        ("auto", False, [CPU], [[CPU]]),
        ("auto", False, EVERYTHING, [[CUDA, CPU], [CPU]]),
        ("auto", True, EVERYTHING, [[TENSORRT, CUDA, CPU], [CUDA, CPU], [CPU]]),
        ("auto", True, [CUDA, CPU], [[CUDA, CPU], [CPU]]),
        ("cuda", False, EVERYTHING, [[CUDA, CPU]]),
        ("cuda", False, [CPU], [[CPU]]),
    ],
)
def test_the_order_is_tensorrt_cuda_cpu(
    device: Device, tensorrt: bool, available: list[str], expected: list[list[str]]
) -> None:
    """As far as the build has them, and never less than the CPU beside; `cuda` does not try the CPU alone."""
    found = attempts(device, GpuSettings(tensorrt=tensorrt), available)
    assert [[p if isinstance(p, str) else p[0] for p in providers] for providers in found] == expected


def test_cuda_is_told_to_take_no_more_than_it_needs() -> None:
    """The options have the names and values that ONNX Runtime's CUDA provider reads."""
    assert attempts("auto", GpuSettings(), EVERYTHING)[0][0] == (CUDA, OPTIONS)
    limited = attempts("auto", GpuSettings(memory_bytes=1 << 30, tensorrt=True), EVERYTHING)[0]
    assert limited[:2] == [
        (TENSORRT, {"trt_max_workspace_size": "1073741824"}),
        (CUDA, {**OPTIONS, "gpu_mem_limit": "1073741824"}),
    ]


def test_libraries_are_not_loaded_where_none_are_used() -> None:
    """A machine that serves on its CPU does not look for CUDA."""
    assert not preload("cpu", EVERYTHING)
    assert not preload("auto", [CPU])
