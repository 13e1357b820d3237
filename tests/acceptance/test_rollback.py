"""A rollback on a real serve process under load (promise 9; `bench/registry/rollback.py` measures it)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bench.registry.rollback import SETTINGS, Answer, RollBack, by_call, by_command, measure
from perene import api
from perene.config import Settings
from tests.integration.registered_toy import MODEL, Shelf
from tests.integration.serving_toy import ROW


@pytest.mark.parametrize("way", [by_call, by_command])
def test_after_a_rollback_every_answer_is_the_earlier_champion_s(
    home: Path, toy_bundle: Path, tmp_path: Path, way: Callable[[str], RollBack], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer but 200, none of the later version once the earlier one has answered."""
    shelf = Shelf(home, toy_bundle, tmp_path)
    old, new = shelf.add(100), shelf.add(200)
    api.promote(MODEL, old, reason="first", settings=shelf.settings())
    # on a busy machine some would be refused for the others' sake: right, but not what is looked at here
    monkeypatch.setitem(SETTINGS, "queue", {"seconds": 60})
    seconds, clients = measure(home, MODEL, ROW, old=old, new=new, rounds=2, roll_back=way(MODEL))
    print(f"{[round(s, 3) for s in seconds]} s, {len(clients.answers)} answers")
    assert clients.broken == []
    assert {a.status for a in clients.answers} == {200}
    assert back_and_forth(clients.answers) == 4, "each of the four moves changes the answers once, and for good"


def back_and_forth(answers: Sequence[Answer]) -> int:
    """How often the version changed, seen so that requests that overlap may be answered in either order.

    Only what began after the first answer of a version had come shows that there was another change: a client that
    is not scheduled for a while may have begun long before its request left.
    """
    changes, current, settled = 0, 0, 0.0
    for answer in sorted(answers, key=lambda a: a.ended):
        if answer.version != current and answer.began >= settled:
            changes, current, settled = changes + bool(current), answer.version, answer.ended
    return changes


def test_a_rollback_needs_neither_mlflow_nor_its_files(home: Path, toy_bundle: Path, tmp_path: Path) -> None:
    """The ledger and serving's cache are enough: the store is taken away once both versions have served."""
    shelf = Shelf(home, toy_bundle, tmp_path)
    old, new = shelf.add(100), shelf.add(200)
    api.promote(MODEL, old, reason="first", settings=shelf.settings())
    calls: list[int] = []

    def roll_back_without(settings: Settings) -> None:
        shutil.rmtree(home / "artifacts", ignore_errors=True)
        (home / "mlflow.db").unlink(missing_ok=True)
        calls.append(api.rollback(MODEL, settings=settings).champion)

    measure(home, MODEL, ROW, old=old, new=new, rounds=2, roll_back=roll_back_without)
    assert calls == [old, old]
