"""Looking at versions, from Python and from the command line, over a real store and ledger."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

import perene
from perene.cli import app
from perene.config import Settings
from registry.errors import BundleCorrupt, ModelUnknown, NameInvalid, StoreUnavailable, VersionUnknown
from registry.ledger import Ledger
from tests.integration.registered_toy import MODEL, Shelf


@pytest.fixture
def shelf(home: Path, toy_bundle: Path, tmp_path: Path) -> Shelf:
    return Shelf(home, toy_bundle, tmp_path)


def run(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--home", str(home)])


def test_inspect_shows_the_champion_else_the_newest(shelf: Shelf, home: Path) -> None:
    """Or the version asked for; with contract and certificate, and shown as a table in a notebook."""
    settings = shelf.settings()
    one, two = shelf.add(1), shelf.add(2)
    assert perene.inspect(MODEL, settings=settings).version == two
    with closing(Ledger.open(f"sqlite:///{home / 'ledger.db'}")) as ledger:
        ledger.move(MODEL, expected_revision=0, champion=one, actor="test", reason="test")
    found = perene.inspect(MODEL, settings=settings)
    assert found.version == one
    assert found.contract.names == ["temp", "hour", "late", "carrier"]
    assert found.digest == shelf.store.digest(MODEL, one)
    assert "<table>" in found._repr_html_()
    assert perene.inspect(MODEL, two, settings=settings).version == two


def test_inspect_says_what_is_not_there(shelf: Shelf) -> None:
    """No model, no version, no bundle, no name."""
    settings = shelf.settings()
    with pytest.raises(ModelUnknown):
        perene.inspect("nothing", settings=settings)
    with pytest.raises(NameInvalid):
        perene.inspect("../evil", settings=settings)
    plain = shelf.add_plain()
    with pytest.raises((BundleCorrupt, StoreUnavailable)):
        perene.inspect(MODEL, plain, settings=settings)
    with pytest.raises(VersionUnknown):
        perene.inspect(MODEL, 99, settings=settings)


def test_models_lists_every_version_with_its_part(shelf: Shelf, home: Path) -> None:
    """Of every model, deployed or not; those of plain MLflow have no verdict."""
    one = shelf.add(1)
    shelf.add(2)
    shelf.add_plain("foreign")
    with closing(Ledger.open(f"sqlite:///{home / 'ledger.db'}")) as ledger:
        ledger.move(MODEL, expected_revision=0, champion=one, actor="test", reason="test")
    found = perene.models(settings=shelf.settings())
    assert list(found["model"]) == ["foreign", MODEL, MODEL]
    assert list(found["version"]) == [1, 2, 1]
    assert list(found["role"]) == ["", "", "champion"]
    assert found["verdict"][0] is None
    assert isinstance(found, pd.DataFrame)
    assert len(perene.models(MODEL, settings=shelf.settings())) == 2
    listed = json.loads(run(home, "models", "--json").stdout)
    assert [row["version"] for row in listed] == [1, 2, 1]


def test_contract_diff_exits_with_1_when_callers_would_break(shelf: Shelf, home: Path) -> None:
    """The same way round: accepting null is no break, refusing it is."""
    strict, lenient = shelf.add(1), shelf.add_lenient(2)
    there = run(home, "contract", "diff", MODEL, str(strict), str(lenient), "--json")
    back = run(home, "contract", "diff", MODEL, str(lenient), str(strict), "--json")
    assert (there.exit_code, back.exit_code) == (0, 1)
    assert [c["breaking"] for c in json.loads(there.stdout)] == [False]
    (change,) = json.loads(back.stdout.splitlines()[0])
    assert (change["kind"], change["column"], change["breaking"]) == ("null", "carrier", True)
    same = run(home, "contract", "diff", MODEL, str(strict), str(strict), "--json")
    assert (same.exit_code, json.loads(same.stdout)) == (0, [])


def test_contract_show_prints_the_contract(shelf: Shelf, home: Path) -> None:
    """As JSON, the contract itself; as a table, its columns."""
    shelf.add(1)
    shown = json.loads(run(home, "contract", "show", MODEL, "--json").stdout)
    assert shown["model"] == MODEL
    assert [c["name"] for c in shown["columns"]] == ["temp", "hour", "late", "carrier"]
    table = run(home, "contract", "show", MODEL, "1")
    assert "carrier" in table.stdout


def test_the_public_names_are_few_and_there() -> None:
    """Each can be used, and none is heavy until it is."""
    assert len(perene.__all__) <= 12
    assert all(callable(getattr(perene, name)) for name in perene.__all__)
    assert isinstance(Settings(), Settings)
