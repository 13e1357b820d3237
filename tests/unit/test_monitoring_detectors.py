"""One seam decides on drift, and one suite of checks says what everything behind it must do."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitoring.drift.assess import assess
from monitoring.drift.detector_checks import CHECKS, run
from monitoring.drift.detectors import Detector, DetectorFailed, Statistic, resolve
from monitoring.drift.windows import Window
from monitoring.settings import MonitoringSettings
from registry.errors import ConfigInvalid
from registry.reference import FIRST_NUMBER

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-statistic.md"
BINS = FIRST_NUMBER + 10
SPEC: dict[str, Any] = {
    "kind": "number",
    "edges": [float(n) for n in range(1, 10)],
    "minimum": 0.0,
    "maximum": 10.0,
    "counts": [0] * FIRST_NUMBER + [200] * 10,
}


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The how-to's file, importable as it says."""
    blocks = re.findall(r"^```python\n(.*?)^```$", HOW_TO.read_text(), flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "my_statistics.py").write_text("\n".join(blocks))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_statistics", raising=False)
    resolve.cache_clear()
    return str(re.findall(r'^detector = "(.+)"$', HOW_TO.read_text(), flags=re.MULTILINE)[0])


def window(number: int, *counts: int) -> Window:
    """An hour with these rows in each bin of `x`."""
    return Window(3600.0 * number, 3600.0 * (number + 1), sum(counts), {"x": [0] * FIRST_NUMBER + list(counts)})


def test_the_ladder_does_what_every_detector_must() -> None:
    assert [c for c in run(resolve("ladder")) if not c.ok] == []


def test_the_example_of_the_how_to_does_what_every_detector_must(example: str) -> None:
    """As it stands there, named as the setting names it."""
    found = run(resolve(example))
    assert [c for c in found if not c.ok] == []
    assert len(found) == len(CHECKS)


def test_a_setting_chooses_who_decides(example: str) -> None:
    """A move too small for the example's threshold is flagged by the ladder only; a large one by both."""
    small, large = [140, 150, 160, 170, 180, 220, 230, 240, 250, 260], [0] * 9 + [2000]
    for counts, by_example in ((small, False), (large, True)):
        closed = [window(n, *counts) for n in range(4)]
        flagged = {
            name: bool(assess({"x": SPEC}, closed, MonitoringSettings(detector=name)).features.names)
            for name in ("ladder", example)
        }
        assert flagged == {"ladder": True, example: by_example}


def _moody() -> Callable[..., float]:
    """A distance that depends on how often it was asked."""
    asked = itertools.count()
    return lambda spec, w, q: 1.0 if next(asked) % 7 == 6 else 0.0


@pytest.mark.parametrize(
    ("distance", "broken"),
    [
        (lambda spec, w, q: 1.0, "says nothing of identical data"),
        (lambda spec, w, q: 0.0, "sees a column that moved altogether"),
        (lambda spec, w, q: float("nan"), "is deterministic"),
        (lambda spec, w, q: 1 / 0, "bears bad columns"),
        (lambda spec, w, q: float(np.log(w[2:]).sum()), "bears bad columns"),
        (_moody(), "is deterministic"),
    ],
    ids=["always", "never", "no number", "raises", "no number for bad columns", "moody"],
)
def test_a_detector_that_does_not_is_found(distance: Callable[..., float], broken: str) -> None:
    """The checks check: each kind of fault fails the one that is about it."""
    with np.errstate(divide="ignore"):
        found = run(Statistic(distance, 0.5))
    assert broken in {c.name for c in found if not c.ok}


def test_a_detector_that_changes_its_windows_is_found() -> None:
    """The monitor's state is not the detector's to write."""

    def careless(specs: Any, closed: Any, settings: Any, *, alarmed: Any = ()) -> Any:
        found = resolve("ladder")(specs, closed, settings, alarmed=alarmed)
        closed[-1].counts["number"][0] += 1
        return found

    detector: Detector = careless
    problems = {c.name: c.problem for c in run(detector)}
    assert problems["is deterministic"] == "changes what it was given"


def test_a_statistic_that_fails_names_the_column_and_no_value() -> None:
    """What stops a turn of the worker says where, and what it was."""

    def fails(spec: Any, w: Any, q: Any) -> float:
        raise KeyError("secret value")

    with pytest.raises(DetectorFailed) as failure:
        Statistic(fails, 0.1)({"x": SPEC}, [window(0, *[100] * 10)], MonitoringSettings())
    assert (failure.value.where, failure.value.got) == ("x", "KeyError")
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize("name", ["no_such_module:x", "math:no_such_name", "math:pi"])
def test_a_detector_that_is_none_is_refused_with_the_setting(name: str) -> None:
    with pytest.raises(ConfigInvalid) as refusal:
        resolve(name)
    assert refusal.value.where == "detector"


@pytest.mark.parametrize("name", ["", "psi", "os.system", "a:b:c", "../x:y", "a b:c"])
def test_a_setting_that_names_no_detector_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="detector"):
        MonitoringSettings(detector=name)
