"""Reduced forms of the acceptance simulations, seeds fixed; the full ones are in `bench/monitoring`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


def _load() -> ModuleType:
    path = Path(__file__).parents[2] / "bench" / "monitoring" / "simulate.py"
    spec = importlib.util.spec_from_file_location("perene_simulate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


simulate = _load()


@pytest.mark.parametrize("n", [100, 500])
def test_no_drift_no_alarm_where_the_usual_rule_alarms(n: int) -> None:
    """M1 reduced: 20 features, 2 x 80 windows. PSI > 0.1 uncorrected alarms on the same stream."""
    runs = [simulate.run(simulate.normal(), simulate.normal(), seed=s, n=n, windows=80) for s in range(2)]
    assert [(r.drift, r.broken) for r in runs] == [([], [])] * 2
    if n == 100:
        assert min(len(r.control) for r in runs) >= 70


def test_awkward_columns_do_not_alarm_either() -> None:
    """Heavy tails, 200 levels, zero-inflation, correlation."""
    run = simulate.run(simulate.awkward(), simulate.awkward(), seed=0, n=500, windows=80)
    assert (run.drift, run.broken) == ([], [])


def test_half_a_standard_deviation_is_found_within_three_windows() -> None:
    """M2 reduced: one of 20 features moves, n = 100, after 16 undisturbed windows."""
    found = simulate.delays(simulate.normal(), simulate.normal(shift=0.5), n=100, replicates=10)
    assert np.median(found) <= 3
    assert max(found) <= 6


def test_broken_data_is_found_within_two_windows() -> None:
    """M4 reduced: nulls from 0 to 5 %, and a column that is missing."""
    nulls = simulate.delays(simulate.faulty(), simulate.faulty(nulls=0.05), n=500, replicates=4, broken=True)
    gone = simulate.delays(simulate.faulty(), simulate.faulty(missing=True), n=500, replicates=4, broken=True)
    assert (np.median(nulls), max(gone)) == (2, 1)


def test_esr_is_silent_on_stable_and_better_losses_and_quick_on_worse() -> None:
    """M6 reduced: base loss 0.2, 2,000 reference labels, run length 10,000."""
    stable = [simulate.esr_alarm(0.2, seed=s, labels=10_000) for s in range(10)]
    better = [simulate.esr_alarm(0.15, seed=s, labels=5_000) for s in range(5)]
    assert sum(a is not None for a in stable) <= 1
    assert better == [None] * 5
    for rise, bar in ((0.10, 400), (0.20, 110)):
        late = [simulate.esr_alarm(0.2 + rise, seed=s, labels=3000) or 3000 for s in range(20)]
        assert np.median(late) <= bar
