"""The ledger told as lines: each happening once, alarms and their ends, not every twitch."""

from __future__ import annotations

from pathlib import Path

from perene.story import Story
from registry.ledger import Ledger


def finding(ledger: Ledger, state: str) -> None:
    body = {"kind": "feature_drift", "state": state, "severity": "high", "at": "2013-04-05T00:00:00+00:00"}
    ledger.record_evidence("toy", "finding", body)


def test_tells_each_happening_once(tmp_path: Path) -> None:
    """Deployments, runs as they change, gates with the reason of what failed."""
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    story = Story(ledger)
    ledger.move("toy", expected_revision=0, champion=1, actor="me", reason="first version")
    ledger.record_run("toy-1", "toy", status="running", step="train", body={})
    assert [line.kind for line in story.news()] == ["run", "deployment"]
    assert story.news() == []
    ledger.record_run("toy-1", "toy", status="done", step="concluded", body={})
    gates = [
        {"gate": "certificate", "verdict": "pass", "reason": "exact"},
        {"gate": "quality", "verdict": "fail", "reason": "worse by 0.02"},
    ]
    ledger.record_evidence("toy", "gates", {"gates": gates})
    ledger.record_evidence("toy", "registered", {"version": 2})
    assert [line.text for line in story.news()] == ["gates: quality: worse by 0.02", "retraining 1: done, concluded"]
    ledger.close()


def test_tells_alarms_and_their_ends_only(tmp_path: Path) -> None:
    """A state that is merely watched is no news; the end of an alarm is. What an alarm means stands below it."""
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    story = Story(ledger)
    for state in ("ok", "watch", "ok", "confirmed", "watch", "ok", "watch"):
        finding(ledger, state)
    alarm, means, end = (line.text for line in story.news())
    assert [line.split(": ")[1].split()[0] for line in (alarm, end)] == ["confirmed", "ok"]
    assert means.startswith("  inputs moved and no labels tell yet whether it matters")
    ledger.close()
