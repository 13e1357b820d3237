"""Rules on plain figures: latency, the year's budget, and how often chance decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.promotion import gates as simulated
from retrain.gates.gates import Gate, held, passed
from retrain.gates.latency import ROUNDS, judge_latency, timed
from retrain.gates.leakage import judge_leakage
from retrain.gates.spending import alpha_gate, attempts, spent
from tests.unit.gate_sides import NUMBER, linear, rows, side


def sped(champion: list[float], candidate: list[float], **more: Any) -> Gate:
    inputs = {
        "champion_bytes": 9_000_000,
        "candidate_bytes": 9_000_000,
        "ratio": 1.2,
        "free_ms": 0.0,
        "size_ratio": 2.0,
    }
    return judge_latency({"champion_p99_ms": champion, "candidate_p99_ms": candidate, **inputs, **more})


def test_a_slower_model_fails_and_a_single_slow_round_does_not() -> None:
    base = [1.0] * ROUNDS
    assert sped(base, [1.5] * ROUNDS).verdict == "fail"
    assert sped(base, [1.1] * ROUNDS).verdict == "pass"
    assert sped(base, [1.0] * (ROUNDS - 1) + [90.0]).verdict == "pass"


def test_a_model_that_is_fast_enough_is_never_too_slow() -> None:
    assert sped([0.01] * ROUNDS, [0.1] * ROUNDS, free_ms=0.5).verdict == "pass"


def test_a_model_twice_as_large_fails() -> None:
    assert sped([1.0] * ROUNDS, [1.0] * ROUNDS, candidate_bytes=20_000_000).verdict == "fail"
    assert sped([1.0] * ROUNDS, [1.0] * ROUNDS, champion_bytes=10, candidate_bytes=500_000).verdict == "pass"


def test_what_was_not_timed_is_no_pass() -> None:
    assert sped([], []).verdict == "insufficient"


def test_both_are_asked_the_same_number_of_times() -> None:
    version = side(NUMBER, linear)
    base, fresh = timed(version, version, rows(50))
    assert len(base) == len(fresh) == ROUNDS


def test_an_identical_model_is_never_slower_by_chance() -> None:
    """Noise of a busy machine hits both; control: half as fast again is found."""
    assert simulated.latency(runs=400, slower=1.0, noise=0.5, seed=1) == 1.0
    assert simulated.latency(runs=50, slower=1.5, noise=0.1, seed=2) == 0.0


def test_the_year_s_budget_is_never_spent() -> None:
    assert sum(spent(0.05, k) for k in range(1, 100_000)) == pytest.approx(0.05, rel=1e-4)


def claims(*found: tuple[str, int, str]) -> list[dict[str, Any]]:
    return [
        {"run_id": run, "gates": [{"gate": "alpha", "verdict": verdict, "inputs": {"year": year}}]}
        for run, year, verdict in found
    ]


def test_claims_are_counted_by_run_and_year() -> None:
    """Another year is another budget; freshness claims nothing; a run that is resumed is one claim."""
    rows_ = claims(("a", 2013, "fail"), ("a", 2013, "fail"), ("b", 2013, "pass"), ("c", 2012, "pass"))
    rows_ += claims(("d", 2013, "not applicable"))
    assert attempts(rows_, 2013, "new") == 2
    assert attempts(rows_, 2013, "b") == 1
    assert attempts([{"gates": []}, {}], 2013, "x") == 0


def test_a_recovery_is_no_leak() -> None:
    """After a drift the champion orders rows badly: who is as good as it was at its acceptance is not too good."""
    inputs = {"rows": 500, "min_rows": 100, "champion": 0.6, "candidate": 0.85, "feature": None}
    limits = {"gain": 0.1, "perfect": 0.1, "share": 0.9}
    assert judge_leakage(inputs | limits).verdict == "human"
    assert judge_leakage(inputs | limits | {"accepted": 0.84}).verdict == "pass"
    assert judge_leakage(inputs | limits | {"accepted": 0.84, "candidate": 0.97}).verdict == "human"


def test_a_champion_that_was_shown_better_earns_the_budget_anew() -> None:
    """Newest first: a passed claim that changed the champion ends the count; a change without one does not."""

    def row(run: str, champion: int, verdict: str) -> dict[str, Any]:
        body = claims((run, 2013, verdict))[0]
        return {**body, "passed": verdict in ("pass", "not applicable"), "context": {"champion": champion}}

    earned = [row("d", 2, "fail"), row("c", 1, "pass"), row("b", 1, "fail")]
    assert attempts(earned, 2013, "new", 2) == 1
    fresh = [row("d", 2, "fail"), row("c", 1, "not applicable"), row("b", 1, "fail")]
    assert attempts(fresh, 2013, "new", 2) == 2
    lost = [row("d", 1, "fail"), row("c", 1, "pass"), row("b", 1, "fail")]
    assert attempts(lost, 2013, "new", 1) == 3
    assert attempts(earned, 2013, "new") == 3


def test_later_claims_need_more() -> None:
    pairs = {"n": 2_000, "mean": 0.01, "se": 0.004, "dof": 1_999}
    asked: dict[str, Any] = {"alpha": 0.05, "year": 2013, "contenders": 1, "reason": "performance"}
    assert alpha_gate(pairs, before=0, **asked).verdict == "pass"
    assert alpha_gate(pairs, before=9, **asked).verdict == "fail"
    assert alpha_gate(pairs, before=9, **{**asked, "reason": "freshness"}).verdict == "not applicable"


def test_what_passes_and_what_waits_for_a_person() -> None:
    def of(*verdicts: Any) -> list[Gate]:
        return [Gate("g", verdict, "", {}) for verdict in verdicts]

    assert passed(of("pass", "not applicable"))
    assert not passed(of("not applicable"))
    assert not passed(of("pass", "human"))
    assert held(of("pass", "human", "not applicable"))
    assert not held(of("human", "fail"))
    assert not held(of("pass"))


def test_a_year_of_equal_models_promotes_hardly_any() -> None:
    """A7, reduced; controls: the same level each time, and points, promote in nearly every year."""
    found = simulated.year(runs=300, shock=0.01, seed=3)
    assert found["alpha ledger"] <= 0.06
    assert found["5 % each time"] > 0.9
    assert found["points"] > 0.99


def test_slices_block_rarely_by_chance_and_find_harm() -> None:
    """A8, reduced: 20 equal slices, and one of 150 rows that is 10 points worse."""
    for kind in ("Brier loss", "0-1 loss, harm only"):
        assert simulated.slices(runs=500, kind=kind, seed=4) <= 0.08
        assert simulated.slices(runs=500, kind=kind, harm=0.10, seed=5) >= 0.85
    assert simulated.slices(runs=500, kind="Brier loss", shock=0.03, seed=6) <= 0.08


def test_two_points_worse_does_not_pass_and_points_alone_would_let_equals_through() -> None:
    assert simulated.non_inferior(runs=1_000, gain=-0.02, seed=7) <= 0.01
    assert 0.4 < simulated.by_points(runs=1_000, gain=0.0, seed=8) < 0.6


def test_the_simulation_computes_what_the_gate_computes() -> None:
    assert simulated.agreement(runs=50, seed=9) < 1e-12
    assert np.isfinite(simulated.improvement(runs=10, gain=0.02, claim=1, kind="Brier loss", seed=1))
