"""The reference's bins: exact sums, sensible edges, no leak of dropped columns, no selection bias."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contract import Column, Contract, Output
from registry.errors import ConfigInvalid
from registry.loss import bounded_loss
from registry.reference import ABOVE, BELOW, INFINITE, NULL, OTHER, UNSEEN, bin_counts, build_reference

NUMBERS = st.lists(st.one_of(st.floats(width=32), st.just(float("nan"))), max_size=200)


def specs(**columns: Any) -> dict[str, Any]:
    """Reference columns of arrays."""
    contract = Contract(
        "m",
        tuple(Column(n, "string" if v.dtype == object else "float") for n, v in columns.items()),
        Output("regression"),
    )
    n = len(next(iter(columns.values())))
    made = build_reference(contract, columns, np.zeros(n), np.zeros(n), 1.0, {"mae": 1.0})
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    found: dict[str, Any] = made["columns"]
    return found


@given(NUMBERS, NUMBERS)
def test_every_value_falls_in_exactly_one_bin(old: list[float], new: list[float]) -> None:
    """Counts add up to rows for any floats; the reference's own values are never out of range."""
    spec = specs(x=np.array(old, np.float64))["x"]
    counts = bin_counts(spec, np.array(new, np.float64))
    assert counts.sum() == len(new)
    assert len(counts) == len(spec["counts"])
    assert sum(spec["counts"]) == len(old)
    assert spec["counts"][BELOW] == spec["counts"][ABOVE] == 0
    assert len(spec["edges"]) <= 9
    assert spec["edges"] == sorted(set(spec["edges"]))


@given(NUMBERS, st.integers(0, 200))
def test_counts_of_parts_add_up_to_the_whole(values: list[float], cut: int) -> None:
    """Shards merge exactly."""
    spec = specs(x=np.random.default_rng(0).normal(0, 1, 500))["x"]
    array = np.array(values, np.float64)
    whole = bin_counts(spec, array)
    assert (bin_counts(spec, array[:cut]) + bin_counts(spec, array[cut:])).tolist() == whole.tolist()


def test_float64_and_float32_of_one_value_share_a_bin() -> None:
    """Training data is float64 and requests are float32: 0.1 must not move between bins on its way."""
    values = np.round(np.random.default_rng(1).integers(0, 40, 2000) / 10.0, 1)
    spec = specs(x=values)["x"]
    assert bin_counts(spec, values.astype(np.float32)).tolist() == spec["counts"]


def test_a_heavy_value_gets_a_bin_of_its_own() -> None:
    """Nine zeros in ten: rain and no rain are told apart, or rain in half the rows would go unseen."""
    rng = np.random.default_rng(2)
    rain = np.where(rng.random(2000) < 0.95, 0.0, rng.exponential(1, 2000))
    spec = specs(x=rain)["x"]
    wet = np.where(rng.random(2000) < 0.5, 0.0, rng.exponential(1, 2000))
    assert abs(bin_counts(spec, wet)[4] / 2000 - 0.5) < 0.05
    assert abs(spec["counts"][4] / 2000 - 0.95) < 0.02


def test_nulls_infinities_and_the_unseen_have_bins() -> None:
    """Special values are counted where the format says."""
    found = specs(x=np.array([1.0, 2.0, 3.0]), c=np.array(["a", "b", "a"], dtype=object))
    x = bin_counts(found["x"], np.array([np.nan, np.inf, -np.inf, 0.0, 9.0, 2.0]))
    assert (x[NULL], x[INFINITE], x[BELOW], x[ABOVE]) == (1, 2, 1, 1)
    c = bin_counts(found["c"], np.array([None, "", float("nan"), "z", "a"], dtype=object))
    assert (c[NULL], c[UNSEEN], c[OTHER], c[3]) == (3, 1, 0, 1)


def test_many_levels_are_counted_on_other_rows_than_they_were_chosen_on() -> None:
    """The kept share of 200 equal levels is what new rows show, within noise; all levels count as seen."""
    rng = np.random.default_rng(3)
    names = np.array([f"c{i}" for i in range(200)], dtype=object)
    spec = specs(c=rng.choice(names, 4000))["c"]
    counts = bin_counts(spec, rng.choice(names, 4000))
    assert len(spec["values"]) == 50
    assert abs(sum(spec["counts"][3:]) / sum(spec["counts"]) - counts[3:].sum() / 4000) < 0.03
    assert counts[UNSEEN] == 0


def test_the_null_peak_is_the_worst_block() -> None:
    """Ten nulls in a row of 100 rows are a peak of a tenth, however many rows follow."""
    values = np.zeros(1000)
    values[200:210] = np.nan
    assert specs(x=values)["x"]["null_peak"] == 0.1


def test_columns_that_may_not_be_stored_are_not_described() -> None:
    """Values of a hashed or dropped column do not leave training through the reference."""
    contract = Contract(
        "m",
        (Column("a", "float"), Column("name", "string", policy="hash"), Column("age", "float", policy="drop")),
        Output("regression"),
    )
    frame = {"a": np.zeros(3), "name": np.array(["x"] * 3, dtype=object), "age": np.ones(3)}
    made = build_reference(contract, frame, np.zeros(3), np.zeros(3), 1.0, {"mae": 1.0})
    assert list(made["columns"]) == ["a"]


def test_bounded_losses_are_bounded_and_name_what_is_wrong() -> None:
    """Losses stay in [0, 1]; a bad cap or shape is refused; a label that is no class has no loss."""
    output = Output("classification", (0, 1, 2))
    sure = bounded_loss(output, [[1.0, 0.0, 0.0]] * 4, [0, "1", 2.0, 7], 1.0)
    assert sure[:3].tolist() == [0.0, 1.0, 1.0]
    assert np.isnan(sure[3])
    assert bounded_loss(Output("classification", (False, True)), [[0.0, 1.0]], ["true"], 1.0).tolist() == [0.0]
    with pytest.raises(ConfigInvalid, match="cap"):
        bounded_loss(Output("regression"), [1.0], [1.0], 0.0)
    with pytest.raises(ConfigInvalid, match="classes"):
        bounded_loss(output, [[1.0, 0.0]], [0], 1.0)
