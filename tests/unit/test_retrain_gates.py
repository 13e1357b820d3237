"""Gates: what passes, what does not, and how often by chance."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contract import Column, Contract, Output
from retrain.evidence import gate_evidence, replay
from retrain.gates.gates import PairedSample, certificate_gate, contract_gate, non_inferiority_gate, passed

CONTRACT = Contract("m", (Column("a", "float", nullable=True), Column("b", "string")), Output("regression"))


def sample(mean: float, n: int = 2000, sd: float = 0.05, seed: int = 0) -> PairedSample:
    """Differences with exactly this mean in 14 blocks."""
    d = np.random.default_rng(seed).normal(0.0, sd, n)
    d += mean - d.mean()
    return PairedSample.of(d, np.zeros(n), np.arange(n) // (n // 14))


def verdict(found: PairedSample, reason: str = "performance", k: int = 1) -> str:
    return non_inferiority_gate(found, margin=0.01, alpha=0.05, k=k, reason=reason, min_rows=100).verdict


def test_a_clearly_better_model_passes() -> None:
    assert verdict(sample(0.02)) == "pass"


def test_an_equal_model_passes_for_freshness_only() -> None:
    """Not worse is enough for freshness, not for a claim to be better."""
    assert verdict(sample(0.0)) == "fail"
    assert verdict(sample(0.0), reason="freshness") == "pass"


def test_a_worse_model_fails_for_any_reason() -> None:
    assert verdict(sample(-0.02), reason="freshness") == "fail"


def test_few_rows_are_insufficient_and_that_is_no_pass() -> None:
    gate = non_inferiority_gate(sample(0.1, n=98), margin=0.01, alpha=0.05, k=1, reason="x", min_rows=100)
    assert gate.verdict == "insufficient"
    assert not passed([gate])
    assert not passed([])


def test_best_of_many_pays_for_the_choice() -> None:
    """A lower bound at alpha / k is lower."""
    found = sample(0.0025)
    assert verdict(found, k=1) == "pass"
    assert verdict(found, k=20) == "fail"


def test_days_that_move_together_widen_the_bound() -> None:
    """Fourteen days of one shared shock each are fourteen observations, not 2,000."""
    rng = np.random.default_rng(3)
    days = np.arange(2000) // 143
    shocked = PairedSample.of(rng.normal(0.01, 0.03, 14)[days] + rng.normal(0, 0.01, 2000), np.zeros(2000), days)
    blind = PairedSample.of(np.repeat(0.0, 2000), np.zeros(2000), days)
    clustered, dof = shocked.standard_error()
    assert dof == 13
    assert clustered > 4 * 0.03 / np.sqrt(2000)
    assert blind.standard_error()[0] == 0.0


def passing(*, runs: int, rows: int, gain: float, reason: str, seed: int, k: int = 1) -> float:
    """Share of runs in which the best of `k` candidates, all of the same true gain, passes the gate."""
    generator = np.random.default_rng(seed)
    passes = 0
    for _ in range(runs):
        champion = (generator.random(rows) < 0.2).astype(float)
        candidates = []
        for _ in range(k):
            flip = generator.random(rows) < 0.05
            fresh = (generator.random(rows) < 0.2 - gain / 0.05).astype(float)
            candidates.append(np.where(flip, fresh, champion))
        best = min(candidates, key=lambda c: float(c.mean()))
        blocks = np.arange(rows) // max(rows // 14, 1)
        sample = PairedSample.of(champion, best, blocks)
        found = non_inferiority_gate(sample, margin=0.01, alpha=0.05, k=k, reason=reason, min_rows=30)
        passes += found.verdict == "pass"
    return passes / runs


@pytest.mark.parametrize("gain", [0.0, -0.01])
def test_chance_rarely_passes_a_claim_to_be_better(gain: float) -> None:
    """Equal models, and models worse by 1 pp, pass at most 5 %; best of three at alpha / 3 as well."""
    assert passing(runs=400, rows=2000, gain=gain, reason="performance", seed=1) <= 0.06
    assert passing(runs=300, rows=2000, gain=gain, reason="performance", seed=2, k=3) <= 0.06


def test_points_alone_would_pass_half_of_the_equal_models() -> None:
    """Control: challenger >= champion on the same holdout is a coin flip."""
    rng = np.random.default_rng(4)
    means = [rng.normal(0, 0.05, 500).mean() for _ in range(400)]
    assert np.mean(np.array(means) >= 0) > 0.4


def test_two_points_worse_never_passes_non_inferiority() -> None:
    """A8: -2 pp against a margin of 1 pp at n = 2,000, at most 1 %."""
    assert passing(runs=400, rows=2000, gain=-0.02, reason="freshness", seed=5) <= 0.01


def test_certificate() -> None:
    assert [certificate_gate({"verdict": v}).verdict for v in ("exact", "close", "refused")] == ["pass", "pass", "fail"]
    assert certificate_gate({}).verdict == "insufficient"


def test_contract_compatibility() -> None:
    """What training merely saw may change; names, types, order, nulls and output may not."""
    a, b = CONTRACT.columns
    assert contract_gate(CONTRACT, replace(CONTRACT, columns=(replace(a, maximum=9.0), b))).verdict == "pass"
    for columns in ((a,), (b, a), (replace(a, nullable=False), b), (a, replace(b, dtype="int"))):
        assert contract_gate(CONTRACT, replace(CONTRACT, columns=columns)).verdict == "fail"
    assert contract_gate(CONTRACT, replace(CONTRACT, output=Output("classification", (0, 1)))).verdict == "fail"


@given(st.floats(-0.2, 0.2), st.integers(100, 400), st.integers(1, 6), st.sampled_from(["performance", "freshness"]))
def test_gate_evidence_replays_through_json(mean: float, n: int, k: int, reason: str) -> None:
    """The recorded row alone gives the recorded verdicts; an altered one does not."""
    gates = [
        certificate_gate({"verdict": "exact"}),
        contract_gate(CONTRACT, CONTRACT),
        non_inferiority_gate(sample(mean, n=n), margin=0.01, alpha=0.05, k=k, reason=reason, min_rows=100),
    ]
    body = json.loads(json.dumps(gate_evidence("r", gates, {})))
    assert replay(body)
    body["gates"][2]["inputs"]["blocks"][0][1] += 0.5
    assert not replay(body)
