"""Evidently's report is made by the real library, in a child, on data that would break it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitoring.evidently_report import ReportFiles, report_in_child
from registry.contract import Column, Contract, Output
from registry.errors import StoreUnavailable

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


def write(folder: Path, reference: pd.DataFrame, current: pd.DataFrame) -> ReportFiles:
    """Run the child on two frames."""
    reference.to_parquet(folder / "reference.parquet")
    current.to_parquet(folder / "current.parquet")
    (folder / "contract.json").write_text(json.dumps(CONTRACT.to_dict()))
    return report_in_child(
        folder / "reference.parquet",
        folder / "current.parquet",
        folder / "contract.json",
        folder / "out",
        timeout_s=200,
    )


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


def test_nothing_to_compare_is_an_error_that_names_its_class_only(tmp_path: Path) -> None:
    """Two frames without one value in common fail cleanly, and the parent learns why."""
    empty = frame(0.0, 1).iloc[:0]
    with pytest.raises(StoreUnavailable) as failure:
        write(tmp_path, empty, empty)
    assert "ConfigInvalid" in failure.value.got
