"""Trials on a real ledger and a real lake: every way in which one ends, and a kill between any two of its writes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from registry import approvals, experiment_requests
from registry.errors import LeaseLost
from registry.ledger import Ledger
from retrain.evidence import replay
from retrain.trials import looks
from tests.integration.trial_world import MODEL, OFF, TrialWorld, bundle, fixed_id, world


def ended(found: TrialWorld) -> Callable[[], bool]:
    return lambda: found.trial.stage == "done"


def test_a_better_candidate_climbs_is_promoted_and_watched(tmp_path: Path) -> None:
    """Shadow, two widths of A/B, promotion, and the former champion in shadow until the watch is over."""
    with world(tmp_path, {1: OFF, 2: 0.0}) as found:
        found.begin()
        found.until(lambda: found.trial.stage == "watch")
        now = found.deployment
        assert (now.champion, now.candidate, now.mode) == (2, 1, "shadow")
        assert found.trial.state == "promoted"
        assert found.trials.open(MODEL) is not None
        found.until(ended(found))
        assert (found.trial.state, found.deployment.champion, found.deployment.candidate) == ("promoted", 2, None)
        assert found.trial.body["cause"] == ""
        actions = [body["action"] for body in found.decisions()]
        assert actions[0] == "advance"
        assert actions[-2:] == ["promote", "keep"]
        assert all(replay(body) for body in found.decisions())
        assert len({d.salt for d in found.ledger.history(MODEL) if d.mode == "ab"}) == 1
        assert found.ledger.verify() == []
        seen = looks.read(found.ledger, "t")
        assert [s for i, s in enumerate(x.stage for x in seen) if i == 0 or s != seen[i - 1].stage][:2] == [
            "shadow",
            "ab:0.25",
        ]
        assert seen[-1].stage == "watch"


def test_a_worse_candidate_does_not_leave_shadow(tmp_path: Path) -> None:
    with world(tmp_path, {1: 0.0, 2: OFF}) as found:
        found.begin()
        found.until(ended(found))
        assert found.trial.state == "rejected"
        assert {d.champion for d in found.ledger.history(MODEL)} == {1}
        assert all(d.mode != "ab" for d in found.ledger.history(MODEL))


def test_a_worse_candidate_that_answers_is_rolled_back(tmp_path: Path) -> None:
    """Without shadow before it; its evidence decides the same again."""
    with world(tmp_path, {1: 0.0, 2: OFF}, stages=("ab:0.5",)) as found:
        found.begin()
        found.until(ended(found))
        assert (found.trial.state, found.trial.body["cause"]) == ("rolled_back", "harm")
        assert (found.deployment.champion, found.deployment.candidate) == (1, None)
        assert found.deployment.reason.startswith("rollback (harm): ")
        (body,) = found.decisions()
        assert replay(body)
        assert body["inputs"]["rows"] > 0
        assert found.deployment.evidence_id == found.trial.body["evidence_id"]


def test_a_candidate_that_fails_or_hangs_is_rolled_back_in_canary(tmp_path: Path) -> None:
    """Nobody but the guardrails notices: the champion answers in its place, and no label is needed."""
    for name, what in (("failing", "error_rate"), ("slow", "latency")):
        ladder = ("shadow", "canary:0.1", "ab:0.5")
        with world(tmp_path / name, {1: 0.0, 2: 0.0}, stages=ladder, canary_units=1_000) as found:
            found.begin()
            found.until(lambda f=found: f.deployment.mode == "canary")  # type: ignore[misc]
            getattr(found, name).add(2)
            found.until(ended(found))
            assert (found.trial.state, found.trial.body["cause"]) == ("rolled_back", what)


def test_without_traffic_a_trial_is_inconclusive_at_its_limit(tmp_path: Path) -> None:
    with world(tmp_path, {1: 0.0, 2: 0.0}, limit="5d") as found:
        found.begin()
        found.tick()
        assert found.deployment.mode == "shadow"
        found.now += timedelta(days=4, hours=23)
        found.tick()
        assert found.trial.state == "running"
        found.now += timedelta(hours=1)
        found.tick()
        assert (found.trial.state, found.deployment.champion) == ("inconclusive", 1)
        assert found.deployment.candidate is None
        assert replay(found.decisions()[0])


def test_a_candidate_that_breaks_callers_is_rejected_once_its_bundle_is_there(tmp_path: Path) -> None:
    """Also one whose certificate says refused; until the bundle is fetched nothing is known, and it is only shadow."""
    refused = bundle()
    refused.certificate["verdict"] = "refused"
    for name, bad in (("columns", bundle("x", "y")), ("refused", refused)):
        with world(tmp_path / name, {1: 0.0, 2: 0.0}) as found:
            del found.bundles[2]
            found.begin()
            found.serve(50)
            found.tick()
            found.tick()
            assert found.trial.state == "running"
            found.bundles[2] = bad
            found.serve(50)
            found.tick()
            assert found.trial.state == "rejected"
            assert found.trial.body["why"].startswith("the candidate may not serve: ")
            assert replay(found.decisions()[0])


class Dying(Ledger):
    """Dies after each of its writes, once for every row that there will ever be."""

    def _die(self, made: Any) -> Any:
        raise LeaseLost("killed")

    def record_evidence(self, *args: Any, **named: Any) -> int:
        return int(self._die(super().record_evidence(*args, **named)))

    def move(self, *args: Any, **named: Any) -> Any:
        return self._die(super().move(*args, **named))

    def record_experiment(self, *args: Any, **named: Any) -> None:
        self._die(super().record_experiment(*args, **named))


@pytest.mark.parametrize(("off", "state"), [({1: OFF, 2: 0.0}, "promoted"), ({1: 0.0, 2: OFF}, "rolled_back")])
def test_a_worker_killed_after_each_of_its_writes_decides_nothing_twice(
    tmp_path: Path, off: dict[int, float], state: str
) -> None:
    """One life in which every write is the last of its process, beside one without a kill: the same deployments."""
    histories = []
    stages = ("ab:0.25", "ab:0.5") if state == "rolled_back" else ("shadow", "ab:0.25", "ab:0.5")
    for name in ("whole", "killed"):
        with world(tmp_path / name, off, stages=stages) as found:
            found.begin()
            dying, killed = Dying(found.ledger._engine), 0
            for _ in range(60):
                found.serve(200)
                for _ in range(4):  # as many turns as writes follow from one look
                    try:
                        found.tick(found.worker(dying) if name == "killed" else None)
                    except LeaseLost:
                        killed += 1
                if found.trial.stage == "done":
                    break
            assert found.trial.state == state
            steps = [(b["trial"]["step"], b["action"]) for b in found.decisions()]
            assert len(steps) == len(set(steps))
            assert all(replay(body) for body in found.decisions())
            assert (killed > 3 * len(steps)) == (name == "killed")
            fields = [(d.champion, d.candidate, d.mode, d.weight) for d in found.ledger.history(MODEL)]
            histories.append((fields, steps))
    assert histories[0] == histories[1]


def test_labels_after_the_decision_count_in_the_watch(tmp_path: Path) -> None:
    """What was promoted on its first labels is taken back when the late ones, by pairs and by arms, say otherwise."""
    with world(tmp_path, {1: OFF, 2: 0.0}, stages=("ab:0.5",)) as found:
        found.begin()
        found.tick()
        found.serve(1_000, labels=False)
        late = list(found.late)
        found.until(lambda: found.trial.stage == "watch")
        promoted = found.decisions()[-1]
        found.tell(late)
        found.off[2] = 3 * OFF  # and from now on it is worse than the former champion
        found.until(ended(found))
        assert (found.trial.state, found.trial.body["cause"]) == ("rolled_back", "harm")
        assert found.deployment.champion == 1
        last = found.decisions()[-1]
        assert last["facts"]["n_candidate"] > promoted["facts"]["n_candidate"]
        assert found.decisions()[-2] == promoted
        assert replay(last)


def alert(found: TrialWorld, status: str, **more: Any) -> int:
    body = {"alert": "Checkout", "status": status, "labels": {"rollback": "true"}, "fingerprint": "f", "actor": "am"}
    return found.ledger.record_evidence(MODEL, "alert", body | more)


def test_an_alert_rolls_back_a_trial_and_a_watch(tmp_path: Path) -> None:
    """Not one of before the trial, one that asks for nothing, or one that is resolved; and without a new event."""
    with world(tmp_path, {1: OFF, 2: 0.0}) as found:
        alert(found, "firing")
        found.begin()
        found.until(lambda: found.deployment.mode == "ab")
        alert(found, "firing", fingerprint="old", starts_at="2013-01-01T00:00:00Z")
        alert(found, "firing", fingerprint="other", labels={})
        alert(found, "firing", fingerprint="over")
        alert(found, "resolved", fingerprint="over")
        found.tick()
        assert found.trial.state == "running"
        row = alert(found, "firing", fingerprint="new")
        found.tick()
        assert (found.trial.state, found.trial.body["cause"]) == ("rolled_back", "alert")
        assert found.decisions()[-1]["alarm"] == {"name": "Checkout", "evidence_id": row}
        assert replay(found.decisions()[-1])
    with world(tmp_path / "watch", {1: OFF, 2: 0.0}, rollback_alerts=("Sales",)) as found:
        found.begin()
        found.until(lambda: found.trial.stage == "watch")
        alert(found, "firing", alert="Sales", labels={})
        found.tick()
        assert (found.trial.state, found.deployment.champion) == ("rolled_back", 1)


def test_by_hand_a_watch_is_ended_and_a_trial_aborted(tmp_path: Path) -> None:
    """The worker follows what people do, and says who did it."""
    with world(tmp_path / "watch", {1: OFF, 2: 0.0}) as found:
        found.begin()
        found.until(lambda: found.trial.stage == "watch")
        found.ledger.rollback(MODEL, actor="ann", reason="no")
        found.tick()
        assert (found.trial.state, found.trial.body["why"]) == ("rolled_back", "ann: no")
        assert found.deployment.champion == 1
    with world(tmp_path / "abort", {1: OFF, 2: 0.0}) as found:
        found.begin()
        found.until(lambda: found.deployment.mode == "ab")
        experiment_requests.abort(found.ledger, MODEL, "t", actor="ann", reason="lunch")
        found.tick()
        assert (found.trial.state, found.trial.body["why"]) == ("aborted", "ann: abort: lunch")


class Overtaken(Ledger):
    """Somebody aborts the trial between a decision and its move."""

    def move(self, *args: Any, **named: Any) -> Any:
        experiment_requests.abort(Ledger(self._engine), MODEL, "t", actor="ann", reason="lunch")
        return super().move(*args, **named)


def test_a_decision_that_an_abort_was_faster_than_does_not_name_the_end(tmp_path: Path) -> None:
    """The trial was won, and its candidate taken out before it could be promoted: it is aborted."""
    with world(tmp_path, {1: OFF, 2: 0.0}, stages=("ab:0.5",)) as found:
        found.begin()
        found.tick()
        for _ in range(60):
            found.serve(200)
            found.tick(found.worker(Overtaken(found.ledger._engine)))
            if found.decisions():
                break
        assert found.decisions()[-1]["action"] == "promote"
        assert (found.deployment.champion, found.deployment.candidate) == (1, None)
        found.tick()
        assert (found.trial.state, found.trial.stage) == ("aborted", "done")
        assert found.trial.body["why"] == "ann: abort: lunch"


def registered(found: TrialWorld, *versions: int) -> None:
    for version in versions:
        approvals.record(found.ledger, MODEL, version, kind="registered", actor="bob", digest="d")


def test_somebody_asks_for_a_trial_that_then_waits_for_approval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request's options hold instead of the settings; a promotion waits for a person, and then needs no event."""
    fixed_id(monkeypatch)
    with world(tmp_path, {1: OFF, 2: 0.0}, stages=("shadow", "ab:0.5")) as found:
        registered(found, 2)
        options = {"stages": ["ab:0.25"], "promotion": "approve", "watch": "0s"}
        made = experiment_requests.start(found.ledger, MODEL, 2, actor="ann", reason="faster", options=options)
        found.tick()
        assert found.trial.experiment_id == made["experiment_id"]
        assert (found.deployment.mode, found.deployment.weight) == ("ab", 0.25)
        for _ in range(12):
            found.serve(300)
            turn = found.tick()
        assert turn.decision is not None
        assert "it waits: 1 of 1 approvals are missing" in turn.decision.reason
        assert found.tick().decision is None, "it is not looked at again for nothing"
        experiment_requests.approve(found.ledger, MODEL, made["experiment_id"], actor="eve")
        found.tick()
        assert (found.trial.state, found.trial.stage, found.deployment.champion) == ("promoted", "done", 2)


def test_a_request_that_cannot_be_met_is_closed_with_the_reason(tmp_path: Path) -> None:
    """Another champion by now, or options that only the worker can judge; the next request is taken up."""
    with world(tmp_path, {1: 0.0, 2: 0.0, 3: 0.0}) as found:
        registered(found, 2, 3)
        first = experiment_requests.start(found.ledger, MODEL, 2, actor="ann", reason="r", options={"metric": "sales"})
        found.tick()
        assert (found.trial.experiment_id, found.trial.state) == (first["experiment_id"], "aborted")
        assert found.trial.body["why"].startswith("the trial's options cannot be obeyed")
        assert found.trials.ended_at(MODEL) is None  # retraining does not cool down after what never began
        experiment_requests.start(found.ledger, MODEL, 2, actor="ann", reason="r")
        found.ledger.move(MODEL, expected_revision=1, champion=3, actor="ann", reason="meanwhile")
        found.tick()
        assert found.trial.body["why"] == "the champion is another one by now"
        last = experiment_requests.start(found.ledger, MODEL, 2, actor="ann", reason="r")
        found.tick()
        assert (found.trial.experiment_id, found.trial.state) == (last["experiment_id"], "running")
        assert found.deployment.candidate == 2


def test_a_trial_whose_row_cannot_be_read_ends_with_the_champion_alone(tmp_path: Path) -> None:
    """Another build wrote it, or somebody by hand: the model's other turns must not fail with it."""
    with world(tmp_path, {1: 0.0, 2: 0.0}) as found:
        found.begin()
        found.tick()
        body = {"trial": {"experiment_id": "t", "policy": {"ab_weight": 0.5}}, "entered": True}
        found.ledger.record_experiment("t", MODEL, state="running", stage="ab", body=body)
        found.tick()
        assert (found.trial.state, found.trial.stage) == ("aborted", "done")
        assert (found.deployment.champion, found.deployment.candidate) == (1, None)


class Ended(Ledger):
    """Somebody ends the trial before the worker's move, having seen no candidate yet that had to be taken out."""

    def move(self, *args: Any, **named: Any) -> Any:
        asked = self.experiments(MODEL)[0]
        if asked.stage != "done":
            super().record_experiment(asked.experiment_id, MODEL, state="aborted", stage="done", body=asked.body)
        return super().move(*args, **named)


def test_a_trial_that_is_ended_as_it_begins_leaves_no_candidate(tmp_path: Path) -> None:
    with world(tmp_path, {1: 0.0, 2: 0.0}) as found:
        registered(found, 2)
        experiment_requests.start(found.ledger, MODEL, 2, actor="ann", reason="r")
        found.tick(found.worker(Ended(found.ledger._engine)))
        assert (found.trial.state, found.deployment.champion, found.deployment.candidate) == ("aborted", 1, None)
        found.tick()
        assert (found.trial.state, found.deployment.candidate) == ("aborted", None)


def test_segments_moved_during_a_trial_do_not_end_it(tmp_path: Path) -> None:
    """A deployment of the same stage is another revision: what it drew counts as well."""
    with world(tmp_path, {1: OFF, 2: 0.0}, stages=("ab:0.5",), min_per_arm=400) as found:
        found.begin()
        found.tick()
        found.serve(400)
        found.tick()
        d = found.deployment
        same = {"candidate": d.candidate, "mode": d.mode, "weight": d.weight, "salt": d.salt}
        found.ledger.move(
            MODEL,
            expected_revision=d.revision,
            champion=1,
            actor="ann",
            reason="segments",
            **same,  # type: ignore[arg-type]
        )
        found.tick()
        found.until(lambda: found.trial.stage == "watch")
        assert sum(found.decisions()[-1]["facts"]["exposed"]) > 800
