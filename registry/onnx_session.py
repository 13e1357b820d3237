"""ONNX Runtime as we use it: one thread, no spinning, and nothing told to anybody."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

# 1.31 has telemetry on Linux too, and it is on: it is read when the library loads
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

ort.disable_telemetry_events()


def open_session(model: bytes, providers: Sequence[str] = ("CPUExecutionProvider",)) -> Any:
    """A session over verified bytes; from bytes, ONNX Runtime refuses data outside of the graph.

    Raises:
        Exception: of whatever kind ONNX Runtime has for what is wrong; they share no public base class.
    """
    # a provider that is asked for and absent is told on stderr otherwise; callers look at what really runs
    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    # one thread and no spinning: the loop is the pool, and a spinning pool burns the other core
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=list(providers))


def available_providers() -> list[str]:
    """What this build lists, which is not what this machine can run."""
    return list(ort.get_available_providers())
