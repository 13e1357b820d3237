"""Merging and expiry: the same rows in fewer files, whatever moment a crash comes at; old days go, others stay."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.intake.events import Event, LabelEvent, PredictionEvent
from monitoring.lake import upkeep
from monitoring.lake.lake import Key, Lake
from registry.contract import Column, Contract, Output

NOON = 1_772_366_400.0
"""2026-03-01T12:00:00Z"""
DAY = 86_400.0
CONTRACT = Contract("m", (Column("x", "float"), Column("s", "string")), Output("classification", ("a", "b")))
LATER = date(2026, 3, 20)


def _fill(lake: Lake, *, files: int = 6, version: int = 1, at: float = NOON) -> None:
    for number in range(files):
        first = number * 10 + 1
        rows: list[tuple[int, Event]] = []
        for seq in range(first, first + 8):
            when = at + (seq * 7919 % 600)
            made = PredictionEvent(
                f"id-{seq}", when, when, "m", version, "champion", "", [seq / 3, None], "a", [0.9, 0.1], 1.0, "k"
            )
            rows.append((seq, made))
        rows.append((first + 8, LabelEvent(f"id-{first}", "m", "b", at, at + seq)))
        lake.write(rows, boot=f"b{version}", first=first, last=first + 8, contracts={("m", version): CONTRACT})


def _merge_all(lake: Lake, before: date = LATER) -> list[Key]:
    found = [
        merge
        for kind in upkeep.KINDS
        for merge in upkeep.merges("m", kind, lake.files("m", kind), before=before, rows=lake.rows)
    ]
    return [upkeep.carry_out(lake, merge) for merge in found]


def test_merged_days_hold_the_same_rows(tmp_path: Path) -> None:
    """Per day and version one file; every reading is as before, joined or not, and a second merge finds nothing."""
    lake = Lake(tmp_path)
    _fill(lake)
    _fill(lake, version=2, at=NOON + DAY)
    before = [lake.read("m", kind) for kind in upkeep.KINDS], lake.joined("m")
    made = _merge_all(lake)
    assert len(made) == 4
    assert sorted([*lake.files("m", "prediction"), *lake.files("m", "label")]) == sorted(made)
    after = [lake.read("m", kind) for kind in upkeep.KINDS], lake.joined("m")
    assert all(a.equals(b) for a, b in zip((*before[0], before[1]), (*after[0], after[1]), strict=True))
    assert _merge_all(lake) == []


def test_days_that_may_still_grow_are_left_alone(tmp_path: Path) -> None:
    """Today's files, and too few of them."""
    lake = Lake(tmp_path)
    _fill(lake)
    _fill(lake, version=2, files=upkeep.LEAST_FILES - 1, at=NOON - DAY)
    assert [key for key in _merge_all(lake, before=date(2026, 3, 1)) if "kind=prediction" in str(key)] == []


@pytest.mark.parametrize("moment", ["before the files go", "while the files go"])
def test_a_crash_in_between_changes_no_reading(tmp_path: Path, moment: str) -> None:
    """Old and new files side by side give each row once; the next round ends what was begun."""
    lake = Lake(tmp_path)
    _fill(lake)
    before = lake.read("m", "prediction")
    [merge] = upkeep.merges("m", "prediction", lake.files("m", "prediction"), before=LATER, rows=lake.rows)

    def crash(_: Key) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upkeep.carry_out(lake, merge, between=crash)
    if moment == "while the files go":
        for file in merge.files[:3]:
            lake.storage.remove(file)
    assert lake.read("m", "prediction").equals(before)
    _merge_all(lake)
    assert lake.read("m", "prediction").equals(before)
    assert len(lake.files("m", "prediction")) <= 2


def test_old_days_go(tmp_path: Path) -> None:
    """By the time of the events, whole days at once."""
    lake = Lake(tmp_path)
    _fill(lake)
    _fill(lake, version=2, at=NOON - 40 * DAY)
    files = [file for kind in upkeep.KINDS for file in lake.files("m", kind)]
    for file in upkeep.expired(files, keep=timedelta(days=30), today=LATER):
        lake.storage.remove(file)
    assert set(lake.read("m", "prediction").column("_version").to_pylist()) == {1}


@given(st.lists(st.integers(0, upkeep.MOST_ROWS), min_size=1, max_size=40))
def test_no_merge_is_larger_than_it_may_be(sizes: list[int]) -> None:
    """Each file in at most one merge, in order; only a single file may be larger."""
    files = [Key(f"model=m/kind=label/date=2026-03-01/b-{n:04}.parquet") for n in range(len(sizes))]
    held = dict(zip(files, sizes, strict=True))
    found = list(upkeep.merges("m", "label", files, before=LATER, rows=held.__getitem__))
    merged = [file for merge in found for file in merge.files]
    assert merged == sorted(set(merged))
    assert all(sum(held[file] for file in merge.files) <= upkeep.MOST_ROWS for merge in found)
