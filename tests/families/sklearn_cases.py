"""Families of scikit-learn, each fitted on real rows in a second or two."""

from __future__ import annotations

from tests.families import ensemble_cases, kernel_cases, linear_cases, step_cases, text_cases, tree_cases
from tests.families.case import Case

CASES: tuple[Case, ...] = (
    *linear_cases.CASES,
    *tree_cases.CASES,
    *ensemble_cases.CASES,
    *kernel_cases.CASES,
    *step_cases.CASES,
    *text_cases.CASES,
)
