"""Trials of several candidates: the bandit moves the traffic, the test alone promotes."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from registry import experiment_requests
from registry.errors import ExperimentInvalid, LeaseLost, VersionUnknown
from registry.experiment_facts import REQUEST
from retrain.evidence import replay
from tests.integration.test_retrain_trials import Dying, ended, registered
from tests.integration.trial_world import MODEL, OFF, TrialWorld, fixed_id, world


@pytest.fixture(autouse=True)
def same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same entities in the same arms in each run: they are drawn by the id of the trial, else one by dice."""
    fixed_id(monkeypatch)


def asked(found: TrialWorld, *others: int, **options: Any) -> None:
    registered(found, 2, *others)
    more = {"others": list(others), "stages": ["ab:0.5"], "watch": "2d", **options}
    experiment_requests.start(found.ledger, MODEL, 2, actor="ann", reason="which one?", options=more)


@pytest.mark.parametrize("killed", [False, True])
def test_the_best_of_three_gets_the_traffic_and_is_promoted_by_the_test(tmp_path: Path, killed: bool) -> None:
    """Each re-weighing is a day and an epoch; the propensities are in its evidence, none below 5 %.

    So it goes, too, where each write is the last one of its process.
    """
    with world(tmp_path, {1: OFF, 2: 0.9 * OFF, 3: 0.0, 4: 0.9 * OFF}) as found:
        asked(found, 3, 4, min_per_arm=280)
        worker = Dying(found.ledger._engine)
        for _ in range(60):
            for _ in range(4):
                try:
                    found.tick(found.worker(worker) if killed else None)
                except LeaseLost:
                    continue
            if found.trial.stage == "done":
                break
            found.serve(200)
        assert (found.trial.state, found.trial.body["trial"]["candidate"]) == ("promoted", 3)
        assert (found.deployment.champion, found.deployment.candidate) == (3, None)
        bodies = found.decisions()
        assert [b["action"] for b in bodies if b["action"] != "reweigh"] == ["promote", "keep"]
        assert all(replay(body) for body in bodies)
        weights = [b["facts"]["weights"] for b in bodies if b["action"] == "reweigh"]
        assert len(weights) >= 2
        assert min(min(w.values()) for w in weights) >= 0.05 - 1e-9
        assert all(sum(w.values()) == pytest.approx(1.0) for w in weights)
        assert weights[-1]["3"] > 0.5
        epochs = bodies[-2]["stats"]["epochs"]
        assert len(epochs) == len(weights) + 1
        assert epochs[1]["weights"] == pytest.approx(weights[0])
        shown = [d for d in found.ledger.history(MODEL) if d.routing is not None and d.routing.arms]
        assert len(shown) == len(epochs)
        assert len({d.salt for d in shown}) == 1


def test_the_winner_is_named_without_a_watch_too(tmp_path: Path) -> None:
    """By a worker that died between the promotion and the trial's row."""
    with world(tmp_path, {1: OFF, 2: 0.9 * OFF, 3: 0.0}) as found:
        asked(found, 3, watch="0s")
        dying = Dying(found.ledger._engine)
        for _ in range(60):
            for _ in range(4):
                with contextlib.suppress(LeaseLost):
                    found.tick(found.worker(dying))
            if found.trial.stage == "done":
                break
            found.serve(200)
        assert (found.trial.state, found.trial.body["trial"]["candidate"]) == ("promoted", 3)
        assert (found.deployment.champion, found.deployment.candidate) == (3, None)


def test_a_candidate_that_harms_or_fails_is_dropped_and_the_last_one_rolled_back(tmp_path: Path) -> None:
    with world(tmp_path, {1: 0.0, 2: OFF, 3: 0.0}) as found:
        asked(found, 3)
        found.tick()
        found.failing.add(3)
        found.until(ended(found), requests=300)
        assert found.trial.state == "rolled_back"
        assert (found.deployment.champion, found.deployment.candidate) == (1, None)
        dropped = [b["reason"] for b in found.decisions() if b["reason"].startswith("dropped")]
        assert len(dropped) == 1
        assert {"harm", "error_rate"} >= {found.trial.body["cause"]}
        assert all(replay(body) for body in found.decisions())


def test_equal_candidates_end_as_inconclusive(tmp_path: Path) -> None:
    with world(tmp_path, {1: 0.0, 2: 0.0, 3: 0.0}) as found:
        asked(found, 3, limit="4d")
        found.tick()
        found.until(ended(found))
        assert (found.trial.state, found.deployment.champion) == ("inconclusive", 1)
        assert replay(json.loads(json.dumps(found.decisions()[-1])))


def test_a_version_twice_or_one_that_nobody_registered_is_refused(tmp_path: Path) -> None:
    """When it is asked for; and by the worker, should a row say so all the same."""
    with world(tmp_path, {1: 0.0, 2: 0.0}) as found:
        with pytest.raises(ExperimentInvalid, match="twice"):
            asked(found, 1)
        with pytest.raises(VersionUnknown):
            experiment_requests.start(found.ledger, MODEL, 2, actor="ann", reason="r", options={"others": [7]})
        body = {"action": "start", "experiment_id": "x", "candidate": 2, "champion": 1, "options": {"others": [2]}}
        found.ledger.record_evidence(MODEL, REQUEST, body)
        found.tick()
        assert (found.trial.state, found.trial.body["why"]) == ("aborted", "a version is in the trial twice: others")
