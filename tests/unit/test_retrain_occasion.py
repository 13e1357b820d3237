"""What counts as a rollback, read off the ledger."""

from __future__ import annotations

from pathlib import Path

from registry.ledger import Ledger
from retrain.triggering.occasion import former_champions, rollbacks


def test_only_a_return_to_an_earlier_champion_is_a_rollback(tmp_path: Path) -> None:
    """Promotions and trials are none; each return is one, and none is counted twice."""
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    for revision, champion in enumerate([1, 2]):
        ledger.move("toy", expected_revision=revision, champion=champion, actor="worker", reason="promote")
    ledger.move(
        "toy", expected_revision=2, champion=2, candidate=3, mode="shadow", salt="s", actor="worker", reason="trial"
    )
    assert rollbacks(ledger.history("toy"), after=0) == []
    back = ledger.rollback("toy", actor="me", reason="bad")
    assert rollbacks(ledger.history("toy"), after=0) == [back]
    assert rollbacks(ledger.history("toy"), after=back.revision) == []
    assert former_champions(ledger.history("toy"), 1) == [2]
    ledger.close()
