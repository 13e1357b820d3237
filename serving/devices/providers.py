"""Which execution providers are tried for a graph, in which order and with which options."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from typing import Final, Literal

from registry.onnx_session import CPU, Provider
from serving.settings import GpuSettings

Device = Literal["auto", "cpu", "cuda"]
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"


def attempts(device: Device, gpu: GpuSettings, available: Collection[str]) -> list[list[Provider]]:
    """Lists of providers to try one after the other, until a session opens.

    Each list ends with the CPU, which takes the operators that the others have no kernel for. `auto` tries the CPU
    alone at last; `cuda` does not.

    Args:
        device: what the operator asked for.
        gpu: how the GPU is used.
        available: what the build of ONNX Runtime lists, which is not what the machine has.
    """
    if device == "cpu" or CUDA not in available:
        return [[CPU]]
    cuda: Provider = (CUDA, _cuda_options(gpu))
    tried: list[list[Provider]] = [[cuda, CPU]]
    if gpu.tensorrt and TENSORRT in available:
        # a session that names TensorRT where its libraries are missing does not open at all
        tried.insert(0, [(TENSORRT, _tensorrt_options(gpu)), cuda, CPU])
    return tried if device == "cuda" else [*tried, [CPU]]


def _cuda_options(gpu: GpuSettings) -> dict[str, str]:
    """The first search per shape is short, and the arena grows by what is asked for instead of doubling."""
    options = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
    return options if gpu.memory_bytes is None else {**options, "gpu_mem_limit": str(gpu.memory_bytes)}


def _tensorrt_options(gpu: GpuSettings) -> dict[str, str]:
    """Engines are built at load and not kept on disk: a cached engine is code that nobody signed."""
    return {} if gpu.memory_bytes is None else {"trt_max_workspace_size": str(gpu.memory_bytes)}


def preload(device: Device, available: Collection[str]) -> bool:
    """Load CUDA and cuDNN from their wheels, where those are installed; the system's own are found without us.

    Returns:
        Whether there were wheels.
    """
    if device == "cpu" or CUDA not in available or importlib.util.find_spec("nvidia") is None:
        return False
    import onnxruntime

    onnxruntime.preload_dlls()
    return True
