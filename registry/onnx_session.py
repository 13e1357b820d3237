"""ONNX Runtime as we use it: few threads, no spinning, nothing told to anybody, and no falling back behind our back."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

# 1.31 has telemetry on Linux too, and it is on: it is read when the library loads
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

ort.disable_telemetry_events()

Provider = str | tuple[str, dict[str, str]]
"""An execution provider by name, or with its options."""
CPU = "CPUExecutionProvider"


def open_session(model: bytes, providers: Sequence[Provider] = (CPU,), *, threads: int = 1) -> Any:
    """A session over verified bytes; from bytes, ONNX Runtime refuses data outside of the graph.

    Raises:
        Exception: of whatever kind ONNX Runtime has for what is wrong; they share no public base class.
    """
    # a provider that is asked for and absent is told on stderr otherwise; callers look at what really runs
    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    # the loop is the pool, and a spinning pool burns the cores of others
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if tuple(providers) != (CPU,):
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # its own fallback prints, and then runs on the CPU as if nothing had happened
    session = ort.InferenceSession(model, options, providers=list(providers), enable_fallback=0)
    # kept for that fallback only: it would hold every graph twice
    session._model_bytes = None
    return session


def nodes_by_provider(session: Any) -> Mapping[str, int]:
    """How many nodes of the optimised graph each provider was given; only of sessions that asked for a GPU."""
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts)


def available_providers() -> list[str]:
    """What this build lists, which is not what this machine can run."""
    return list(ort.get_available_providers())
