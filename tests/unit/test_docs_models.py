"""The page of models: its table is of the cases that are tested, and most of them are on ONNX."""

from __future__ import annotations

from tests.families import boosting_cases, sklearn_cases
from tests.families.table import on_onnx, titles


def test_the_table_has_exactly_the_families_that_are_tested() -> None:
    """In their order; `make models` writes it again."""
    assert titles() == [case.title for case in (*sklearn_cases.CASES, *boosting_cases.CASES)]


def test_nineteen_of_twenty_families_are_exact_or_close_on_onnx() -> None:
    """The promise of the registry's issue."""
    assert on_onnx() >= 0.95
