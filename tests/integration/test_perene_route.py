"""`perene route` on a real MLflow store and a real ledger."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from perene import api
from perene.routes import route, routing_of
from registry.errors import LedgerConflict, ModelUnknown, PereneError, VersionUnknown
from registry.ledger import Ledger
from registry.routing import Routing, Segment, When
from tests.integration.registered_toy import MODEL, Shelf


@pytest.fixture
def shelf(home: Path, toy_bundle: Path, tmp_path: Path) -> Shelf:
    return Shelf(home, toy_bundle, tmp_path)


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    with closing(Ledger.open(f"sqlite:///{home / 'ledger.db'}")) as opened:
        yield opened


def gold(version: int) -> dict[str, Any]:
    return {"segments": [{"when": {"header": "x-tenant", "in": ["gold"]}, "version": version}]}


def perene(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perene.cli", "route", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_segments_are_set_shown_and_taken_away(shelf: Shelf, ledger: Ledger, home: Path, tmp_path: Path) -> None:
    """By command and by call; each a row of the ledger, the champion as it was."""
    settings = shelf.settings()
    one, two = shelf.add(100), shelf.add(200)
    api.promote(MODEL, two, reason="first", settings=settings)
    file = tmp_path / "routing.json"
    file.write_text(json.dumps(gold(one)))
    done = perene(MODEL, "--file", str(file), "--reason", "gold stays", "--home", str(home), "--json")
    assert done.returncode == 0, done.stderr
    shown = perene(MODEL, "--home", str(home))
    assert json.loads(shown.stdout) == gold(one)
    assert routing_of(MODEL, settings=settings) == Routing(segments=(Segment(When(("gold",), "x-tenant"), one),))
    now = ledger.deployment(MODEL)
    assert now is not None
    assert (now.champion, now.reason, now.candidate) == (two, "gold stays", None)
    assert route(MODEL, {"segments": []}, reason="over", settings=settings).routing is None
    assert ledger.verify() == []


def test_what_is_not_fit_is_refused(shelf: Shelf, ledger: Ledger) -> None:
    """Unknown and damaged versions, a trial under way, more than segments, a model that is not deployed."""
    settings = shelf.settings()
    one, two = shelf.add(100), shelf.add(200)
    with pytest.raises(ModelUnknown):
        route(MODEL, gold(one), reason="r", settings=settings)
    api.promote(MODEL, one, reason="first", settings=settings)
    with pytest.raises(VersionUnknown):
        route(MODEL, gold(99), reason="r", settings=settings)
    wrong: list[dict[str, Any]] = [{"shadow_share": 0.5}, {"arms": []}, {}, {"segments": [{}]}]
    for body in (*wrong, {"segments": [], "shadow_share": 0.5}):
        with pytest.raises(LedgerConflict) as caught:
            route(MODEL, body, reason="r", settings=settings)
        assert caught.value.where.startswith("routing")
    damaged = shelf.add(300)
    with (shelf.files(damaged) / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(PereneError):
        route(MODEL, gold(damaged), reason="r", settings=settings)
    ledger.move(MODEL, expected_revision=1, champion=one, candidate=two, mode="shadow", actor="worker", reason="trial")
    with pytest.raises(LedgerConflict, match="under way"):
        route(MODEL, gold(two), reason="r", settings=settings)
    assert len(ledger.history(MODEL)) == 2


@pytest.mark.parametrize("text", ["[]", "{"])
def test_a_file_of_another_form_is_refused(text: str, tmp_path: Path, home: Path) -> None:
    """With the file's name and what would do; no stack trace."""
    file = tmp_path / "routing.json"
    file.write_text(text)
    done = perene("toy", "--file", str(file), "--home", str(home))
    assert done.returncode == 2
    assert "routing.json" in done.stderr
    assert "Traceback" not in done.stderr
