"""Evidently as the deciding detector: the real library, in a child, behind the same checks as any other."""

from __future__ import annotations

import os
import signal

from monitoring.drift import evidently_detector
from monitoring.drift.assess import assess
from monitoring.drift.detector_checks import run
from monitoring.drift.detectors import resolve
from monitoring.settings import MonitoringSettings
from tests.unit.test_monitoring_detectors import SPEC, window


def test_evidently_does_what_every_detector_must() -> None:
    assert [c for c in run(resolve("evidently")) if not c.ok] == []


def test_a_child_that_was_killed_is_replaced() -> None:
    """The next question starts another one, and has the same answer."""
    closed = [window(n, *([0] * 9 + [1000])) for n in range(3)]
    settings = MonitoringSettings(detector="evidently")
    first = assess({"x": SPEC}, closed, settings)
    child = evidently_detector._CHILD.process
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert assess({"x": SPEC}, closed, settings) == first
    assert set(first.features.names) == {"x"}
