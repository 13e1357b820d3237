"""Evidently's report is made by the real library, in a child, on data that would break it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitoring.reports.evidently_report import HTML, JSON, VERDICTS, ReportFiles, write_report
from registry.contract import Column, Contract, Output
from registry.errors import ConfigInvalid

CHILD = """
import json, sys
from pathlib import Path
import pandas as pd
from monitoring.reports.evidently_report import write_report
from registry.contract import Contract
folder = Path(sys.argv[1])
contract = Contract.from_dict(json.loads((folder / "contract.json").read_text()))
frames = [pd.read_parquet(folder / f"{name}.parquet") for name in ("reference", "current")]
write_report(*frames, contract, folder / "out")
"""
CONTRACT = Contract(
    "trips",
    (
        Column("steady", "float"),
        Column("moved", "float"),
        Column("constant", "float"),
        Column("empty", "float", nullable=True),
        Column("gone", "float"),
        Column("holes", "int", nullable=True),
        Column("kind", "string"),
        Column("flag", "bool"),
    ),
    Output("regression"),
)


def frame(shift: float, seed: int) -> pd.DataFrame:
    """400 rows with an all-null column, a constant, nullable integers, infinities."""
    rng = np.random.default_rng(seed)
    n = 400
    made = pd.DataFrame(
        {
            "steady": rng.normal(0, 1, n),
            "moved": rng.normal(shift, 1, n),
            "constant": np.ones(n),
            "empty": np.full(n, np.nan),
            "gone": rng.normal(0, 1, n),
            "holes": pd.array(rng.integers(0, 5, n), dtype="Int64"),
            "kind": rng.choice(["a", "b"], n),
            "flag": rng.random(n) < 0.5,
        }
    )
    made.loc[0, "steady"] = np.inf
    made.loc[:9, "holes"] = pd.NA
    return made


def write(folder: Path, reference: pd.DataFrame, current: pd.DataFrame, contract: Contract = CONTRACT) -> ReportFiles:
    """The report of two frames, made in a child."""
    reference.to_parquet(folder / "reference.parquet")
    current.to_parquet(folder / "current.parquet")
    (folder / "contract.json").write_text(json.dumps(contract.to_dict()))
    environment = {**os.environ, "DO_NOT_TRACK": "true"}
    subprocess.run([sys.executable, "-c", CHILD, str(folder)], check=True, env=environment, timeout=200)
    out = folder / "out"
    facts = json.loads((out / VERDICTS).read_text())
    return ReportFiles(out / HTML, out / JSON, facts["drifted"], facts["left_out"])


def test_odd_columns_are_left_out_by_name_and_the_others_are_reported(tmp_path: Path) -> None:
    """An all-null and a missing column cost themselves, not the report; the shifted column is the one named."""
    files = write(tmp_path, frame(0.0, 1), frame(1.0, 2).drop(columns="gone"))
    assert files.left_out == {"empty": "all null in the reference", "gone": "missing in the window"}
    assert set(files.drifted) == {"steady", "moved", "constant", "holes", "kind", "flag"}
    assert files.drifted["moved"]
    assert not files.drifted["constant"]
    assert not files.drifted["steady"]
    assert "<html" in files.html.read_text()[:2000].lower()
    assert json.loads(files.json.read_text())["metrics"]


def test_a_million_levels_and_hostile_names_cost_nobody_the_report(tmp_path: Path) -> None:
    """Texts cannot leave the page's script, levels beyond 50 count as one, and what the log hides is named as such."""
    evil = "</script><script>alert(1)</script>"
    names = {evil: "float", "<img src=x onerror=alert(2)>": "string", "‹/script›‹script›alert(1)‹/script›": "float"}
    columns = [Column(name, kind) for name, kind in names.items()]  # type: ignore[arg-type]
    columns += [Column("levels", "string"), Column("endless", "float")]
    columns += [Column("email", "string", policy="hash"), Column("iban", "string", policy="drop")]
    contract = Contract("hostile", tuple(columns), Output("regression"))
    rows = 1_000_000

    def side(seed: int, n: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        made: dict[str, Any] = {
            name: rng.standard_normal(n) if kind == "float" else rng.choice([evil, "a"], n)
            for name, kind in names.items()
        }
        made |= {"levels": [f"{evil}{seed}-{i}" for i in range(n)], "endless": np.full(n, np.inf)}
        return pd.DataFrame({**made, "email": "anna@example.org", "iban": "DE00 1234"})

    files = write(tmp_path, side(1, rows), side(2, 2_000), contract)
    assert set(files.drifted) == {*names, "levels"}
    assert files.left_out == {
        "endless": "no finite value in the reference",
        "email": "not kept (policy hash)",
        "iban": "not kept (policy drop)",
    }
    text = files.html.read_text()
    assert "alert(1)" in text, "the control: the names are in the page"
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "anna@" not in text
    assert "DE00" not in text
    assert len(text) < 8_000_000


def test_nothing_to_compare_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    """Two frames without one value in common."""
    empty = frame(0.0, 1).iloc[:0]
    with pytest.raises(ConfigInvalid, match="no column can be compared"):
        write_report(empty, empty, CONTRACT, tmp_path / "out")
    assert not (tmp_path / "out").exists()
