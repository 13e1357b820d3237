"""`perene ledger verify`, receipts, and `perene status --as-of`, through the command."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from perene.cli import app
from perene.config import load
from registry.errors import ConfigInvalid, ModelUnknown
from registry.ledger import Ledger
from tests.integration.ledger_tampering import attacking, remove_guards


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A ledger with two moves and a row of evidence."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with closing(Ledger.open(url)) as ledger:
        ledger.move("toy", expected_revision=0, champion=1, actor="ann", reason="first version")
        ledger.move("toy", expected_revision=1, champion=2, actor="bob", reason="better")
        ledger.record_evidence("toy", "gates", {"n": 1})
    return url


@pytest.fixture
def home(url: str, tmp_path: Path) -> list[str]:
    return ["--home", str(tmp_path)]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_a_sound_ledger_verifies(home: list[str]) -> None:
    """Exit code 0, and a receipt with the rows of each chain."""
    done = run("ledger", "verify", "--json", *home)
    said = json.loads(done.stdout)
    assert (done.exit_code, said["ok"], said["problems"]) == (0, True, [])
    assert {chain: seal["rows"] for chain, seal in said["seals"].items()} == {"deployments/toy": 2, "evidence": 1}


def test_a_tampered_ledger_exits_with_1_and_says_where(home: list[str], url: str) -> None:
    """As text and as JSON."""
    with attacking(url) as connection:
        remove_guards(connection)
        connection.execute(text("UPDATE perene_deployments SET actor = 'ann' WHERE revision = 2"))
    done = run("ledger", "verify", "--json", *home)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["problems"] == ["deployment of toy revision 2 was altered"]
    shown = run("ledger", "verify", *home)
    assert shown.exit_code == 1
    assert "deployment of toy revision 2 was altered" in shown.stdout


def test_a_receipt_is_kept_and_asked_again(home: list[str], url: str, tmp_path: Path) -> None:
    """A ledger cut off and sealed anew contradicts it; later rows do not; what is no receipt is wrong use."""
    receipt = tmp_path / "receipt.json"
    receipt.write_text(run("ledger", "verify", "--json", *home).stdout)
    with closing(Ledger.open(url)) as ledger:
        ledger.move("toy", expected_revision=2, champion=3, actor="cy", reason="later")
    assert run("ledger", "verify", "--against", str(receipt), *home).exit_code == 0
    with attacking(url) as connection:
        remove_guards(connection)
        connection.execute(text("DELETE FROM perene_evidence"))
        connection.execute(text("DELETE FROM perene_seals WHERE chain = 'evidence'"))
    assert run("ledger", "verify", *home).exit_code == 0, "no chain shows that it is not there at all"
    done = run("ledger", "verify", "--against", str(receipt), "--json", *home)
    assert (done.exit_code, json.loads(done.stdout)["problems"]) == (1, ["evidence: 1 rows of the receipt are missing"])
    for wrong in ("", "[]", '{"seals": 1}', '{"seals": {"evidence": {"rows": "x", "seal": ""}}}'):
        receipt.write_text(wrong)
        assert isinstance(run("ledger", "verify", "--against", str(receipt), *home).exception, ConfigInvalid)
    assert isinstance(run("ledger", "verify", "--against", str(tmp_path / "no"), *home).exception, ConfigInvalid)


def test_as_of_shows_what_served_then(home: list[str], url: str) -> None:
    """The row of that moment, with who and why, and nothing that is known only of today."""
    with closing(Ledger.open(url)) as ledger:
        first, second = ledger.history("toy")
    between = first.at + (second.at - first.at) / 2
    [then] = json.loads(run("status", "--as-of", between.isoformat(), "--json", *home).stdout)
    assert (then["champion"], then["actor"], then["reason"]) == (1, "ann", "first version")
    assert "finding" not in then
    [now] = json.loads(run("status", "--as-of", datetime.now(UTC).isoformat(), "--json", *home).stdout)
    assert now["champion"] == 2
    assert json.loads(run("status", "--as-of", "2020-01-01", "--json", *home).stdout) == []
    assert isinstance(run("status", "toy", "--as-of", "2020-01-01", *home).exception, ModelUnknown)


def test_the_policy_is_a_table_of_the_file_and_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment wins; a wrong key is named with its line and the nearest one."""
    file = tmp_path / "perene.toml"
    file.write_text('[policy]\napprovals = 1\naliases = "follow"\n')
    assert (load(file).policy.approvals, load(file).policy.aliases) == (1, "follow")
    monkeypatch.setenv("PERENE__POLICY__APPROVALS", "2")
    assert load(file).policy.approvals == 2
    monkeypatch.delenv("PERENE__POLICY__APPROVALS")
    file.write_text("[policy]\n\napproval = 1\n")
    with pytest.raises(ConfigInvalid, match=r"perene.toml:3: unknown key 'policy.approval'") as caught:
        load(file)
    assert "approvals" in caught.value.hint


@pytest.mark.parametrize("command", [("ledger", "verify"), ("approve",)])
def test_help_begins_with_examples(command: tuple[str, ...]) -> None:
    shown = run(*command, "--help")
    assert shown.exit_code == 0
    assert f"perene {' '.join(command)}" in shown.output.split("Examples")[1]
    assert shown.output.index("Examples") < shown.output.index("Options ─")
