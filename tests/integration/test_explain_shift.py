"""Contribution shift: which columns decide otherwise than they did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from monitoring.drift.contributions import TREE_ROWS, contribution_shift
from registry.bundle import read_bundle
from tests.conftest import toy_frame


def table(rows: int = 600, *, later: int = 0, seed: int = 1) -> pa.Table:
    """Recorded rows, the hours of which may come later."""
    frame = toy_frame(rows, seed)
    frame["hour"] = (frame["hour"] // 2) + later
    return pa.Table.from_pandas(frame, preserve_index=False)


def test_the_column_that_moved_the_answers_comes_first(toy_bundle: Path) -> None:
    """By about as much as it did: the model adds the hour; the others stay where they were."""
    found = contribution_shift(read_bundle(toy_bundle), table(), table(later=11, seed=2))
    first, *others = found["columns"]
    assert first["column"] == "hour"
    assert first["moved"] == pytest.approx(11, abs=2)
    assert max(abs(other["moved"]) for other in others) < 2
    assert (found["output"], found["method"]) == ("prediction", "tree")
    assert found["rows"] == {"reference": TREE_ROWS, "window": TREE_ROWS}
    assert {one["column"] for one in found["columns"]} == {"temp", "hour", "late", "carrier"}


def test_nothing_moves_between_equal_rows(toy_bundle: Path) -> None:
    """The control: samples of one table differ by little."""
    found = contribution_shift(read_bundle(toy_bundle), table(), table())
    assert max(abs(one["moved"]) for one in found["columns"]) < 1e-9
    assert contribution_shift(read_bundle(toy_bundle), table(), table()) == found


def test_what_cannot_be_explained_says_why(toy_bundle: Path) -> None:
    """A column that is not kept, or no rows: a reason, and no columns."""
    bundle = read_bundle(toy_bundle)
    hidden = tuple(replace(column, policy="hash") for column in bundle.contract.columns)
    found = contribution_shift(replace(bundle, contract=replace(bundle.contract, columns=hidden)), table(), table())
    assert found == {"reason": "column 'temp' is not kept", "columns": []}
    assert contribution_shift(bundle, table().drop_columns(["late"]), table())["reason"] == "column 'late' is not kept"
    assert contribution_shift(bundle, table().slice(0, 0), table())["reason"] == "there are too few rows"
    texts = table().set_column(1, "hour", pa.array(["noon"] * 600))
    assert "cannot be explained (ValueError)" in contribution_shift(bundle, texts, table())["reason"]
