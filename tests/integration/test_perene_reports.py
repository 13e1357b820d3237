"""Reports on demand, by the command; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from perene.cli import app
from perene.config import Settings
from perene.reports import ReportRefused, make
from registry.errors import ConfigInvalid, ModelUnknown
from registry.ledger import Ledger
from retrain.places import Places
from tests.integration import retrain_toy as toy


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1, and eight days of traffic."""
    home = tmp_path_factory.mktemp("asked")
    toy.establish_in_child(home)
    toy.World(home).play(8, shift=5.0)
    return home


def told(home: Path, *arguments: str) -> dict[str, Any]:
    """What a command prints as JSON."""
    done = CliRunner().invoke(app, [*arguments, "--home", str(home), "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_evidently_s_report_is_written_where_one_asks_for_it(home: Path, tmp_path: Path) -> None:
    """A folder of one's own, with both verdicts on stdout; nothing is kept elsewhere."""
    out = tmp_path / "drift"
    since, until = "2013-01-05", "2013-01-08"
    asked = ("drift", "report", "--model", toy.MODEL, "--since", since, "--until", until, "--out", str(out))
    found = told(home, *asked)
    assert found["rows"] == {"reference": 960, "window": 720}
    assert found["ours"]["state"] == "ok"
    assert found["evidently"] == []
    assert found["left_out"] == {}
    assert found["window"]["start"].startswith("2013-01-05T00:00")
    assert all(Path(name).is_file() and Path(name).parent == out for name in found["files"])
    assert "<html" in (out / "report.html").read_text()[:200]
    assert not (home / "reports" / toy.MODEL).exists()
    with pytest.raises(ConfigInvalid, match="exists already"):
        make(Settings(home=home), "asked", toy.MODEL, since=None, out=out)


def test_a_performance_report_is_kept_with_the_others_and_told_to_the_ledger(home: Path) -> None:
    """Also in a home whose server never ran: the bundle comes from MLflow."""
    found = told(home, "report", "--model", toy.MODEL, "--since", "2013-01-02", "--until", "2013-01-04")
    assert (found["rows"], found["labels"]) == (480, 480)
    assert found["mlflow"].startswith("runs:/")
    folder = Path(found["folder"])
    assert folder.parent == home / "reports" / toy.MODEL
    assert "480 rows answered" in (folder / "performance.md").read_text()
    ledger = Ledger.open(Places(home).ledger_url)
    rows = ledger.evidence(toy.MODEL, "report")
    ledger.close()
    assert [row.body["key"] for row in rows] == [folder.name]
    shutil.rmtree(folder)


def test_what_cannot_be_reported_on_is_refused_with_the_fix(home: Path, tmp_path: Path) -> None:
    """An unknown model, an empty span, too few rows, a folder that is not there."""
    settings = Settings(home=home)
    with pytest.raises(ModelUnknown):
        make(settings, "asked", "nobody", since=None)
    with pytest.raises(ConfigInvalid, match="span is empty"):
        make(settings, "performance", toy.MODEL, since="2013-01-05", until="2013-01-05")
    with pytest.raises(ConfigInvalid, match="neither an age nor a time"):
        make(settings, "performance", toy.MODEL, since="yesterday")
    with pytest.raises(ConfigInvalid, match="no such folder"):
        make(settings, "asked", toy.MODEL, since=None, out=tmp_path / "a" / "b")
    with pytest.raises(ReportRefused) as refusal:
        make(settings, "asked", toy.MODEL, since="2013-01-08")
    assert "500 rows" in refusal.value.expected
    assert not (home / "reports" / toy.MODEL).exists() or not list((home / "reports" / toy.MODEL).iterdir())


def test_a_detector_is_put_to_the_test_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit status 1 and the failed check's name, for a statistic that is always far."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "from monitoring.drift.detectors import Statistic\nfar = Statistic(lambda spec, w, q: 1.0, 0.5)\n"
    (tmp_path / "always_far.py").write_text(text)
    good = CliRunner().invoke(app, ["drift", "check", "ladder", "--json"])
    bad = CliRunner().invoke(app, ["drift", "check", "always_far:far", "--json"])
    assert (good.exit_code, bad.exit_code) == (0, 1)
    failed = [row["name"] for row in json.loads(bad.stdout) if not row["ok"]]
    assert "says nothing of identical data" in failed
