"""What really runs is what is said to run."""

from __future__ import annotations

import onnxruntime
import pytest

from registry.errors import ConfigInvalid
from serving.engine import require_device


def test_cpu_and_auto_start_anywhere() -> None:
    """Nothing to refuse."""
    require_device("cpu")
    require_device("auto")


def test_cuda_without_a_gpu_refuses_to_start() -> None:
    """ONNX Runtime would fall back in silence; here the answer is what its own session says."""
    has_gpu = _session_has_cuda()
    if has_gpu:
        require_device("cuda")
        return
    with pytest.raises(ConfigInvalid, match="no usable GPU"):
        require_device("cuda")


def _session_has_cuda() -> bool:
    from serving.engine import _IDENTITY

    onnxruntime.set_default_logger_severity(4)
    wanted = [p for p in ("CUDAExecutionProvider",) if p in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(_IDENTITY, providers=[*wanted, "CPUExecutionProvider"])
    return "CUDAExecutionProvider" in session.get_providers()
