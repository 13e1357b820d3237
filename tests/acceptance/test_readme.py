"""What the README tells a newcomer to type is typed here, against the real server."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from perene.config import load
from perene.keyring import APP, LOCAL, ensure_key
from tests.acceptance.test_prometheus_live import PERENE, running, until_ready
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def block(language: str, containing: str) -> str:
    """The fenced block of `language` that contains a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.S)
    (found,) = [text for text in blocks if containing in text]
    return str(found)


def test_the_curl_line_answers(home: Path) -> None:
    """Trained by the command of the tutorial on three weeks of flights, asked by the README's own line."""
    logged = subprocess.run(
        [PERENE, "log", "flight-time", *["--from", "2013-01-01", "--to", "2013-01-21", "--json", "--home"], str(home)],
        env={**os.environ, "PERENE_CONFIG": "examples/flights/perene.toml"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert logged.returncode == 0, logged.stderr
    assert json.loads(logged.stdout)["verdict"] in ("exact", "close")
    ensure_key(load(home=home), *APP)
    ports = {"perene-serve": free_port(), "perene-worker": free_port()}
    line = block("console", "curl -s").replace(".perene/keys", f"{home}/keys")
    with running(home, ports, "serve"):
        until_ready(f"http://127.0.0.1:{ports['perene-serve']}")
        said = subprocess.run(
            ["bash", "-c", line.replace(":8000/", f":{ports['perene-serve']}/")],
            capture_output=True,
            text=True,
            check=True,
        )
    answer = json.loads(said.stdout)
    assert set(json.loads(block("json", "prediction_ids").replace("…", '"…"').replace('""…""', '"…"'))) == set(answer)
    assert answer["model"] == "flight-time"
    assert 100 < answer["predictions"][0] < 300


def test_the_notebook_lines_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`log_model`, `Client.predict` and `events`, as written."""
    monkeypatch.setenv("PERENE__HOME", str(home))
    generator = np.random.default_rng(0)
    X = pd.DataFrame(
        {"age": generator.integers(18, 90, 1_500), "plan": generator.choice(["basic", "plus", "pro"], 1_500)}
    )
    y = ((X["age"] > 50) & (X["plan"] == "basic")).astype(int)
    encoder = make_column_transformer((OneHotEncoder(sparse_output=False), ["plan"]), remainder="passthrough")
    pipeline = make_pipeline(encoder, HistGradientBoostingClassifier(max_iter=10)).fit(X, y)
    train, ask, read = re.split(r"(?=^with |^events )", block("python", "perene.log_model"), flags=re.M)
    names: dict[str, Any] = {"pipeline": pipeline, "X": X, "y": y}
    exec(train, names)
    assert names["version"].version == 1
    names["key"] = ensure_key(load(), *LOCAL)
    ports = {"perene-serve": free_port(), "perene-worker": free_port()}
    url = f"http://127.0.0.1:{ports['perene-serve']}"
    with running(home, ports, "serve"):
        until_ready(url)
        exec(ask.replace("Client(key=key)", f"Client({url!r}, key)"), names)
    assert names["answer"]["predictions"] in ([0], [1])
    exec(read, names)
    assert names["events"]["_label"].tolist() == ["1"]
    assert names["events"]["age"].tolist() == [41]
    assert list((home / "spool").glob("*.spool")) == []


def test_the_backtest_line_runs(tmp_path: Path) -> None:
    """Spring under four policies: a row for each, and the picture."""
    line = block("console", "perene backtest").replace("backtest.png", str(tmp_path / "backtest.png"))
    said = subprocess.run(
        ["bash", "-c", line.replace("perene backtest", f"{PERENE} backtest")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [row.split("\t") for row in said.stdout.splitlines()]
    assert [row[0] for row in rows] == ["never", "cron", "cron+gate", "trigger"]
    assert float(rows[3][1]) < 1.02 * float(rows[0][1])
    assert (tmp_path / "backtest.png").read_bytes().startswith(b"\x89PNG")
