"""Every family of estimators: converted, certified, served from JSON, and the same answers as the original's."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

from registry.errors import ConversionRefused
from registry.log import build_bundle
from tests.families import boosting_cases, sklearn_cases
from tests.families.case import Case
from tests.families.serving import ROWS, Row, answering, converted, request, timed, unlike
from tests.families.table import written

CASES = (*sklearn_cases.CASES, *boosting_cases.CASES)
LOGGED = {"one-hot", "sgd-hinge", "k-means", "isolation-forest", "multi-output-ridge", "tf-idf", "random-forest-nulls"}
"""Logged as whole bundles too: one of each form of contract."""
WRITE = os.environ.get("PERENE_WRITE_MODELS") == "1"


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, Row]]:
    """What the table will say; written at the end of a run that measures (`make models`)."""
    rows: dict[str, Row] = {}
    yield rows
    if WRITE and len(rows) == len(CASES):
        written(CASES, rows)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads of OpenMP that wait for each other on a busy machine take minutes for what one does in a second."""
    with threadpool_limits(1):
        yield


def _require(case: Case) -> None:
    if not case.needs:
        return
    try:
        importlib.import_module(case.needs)
    except ImportError:
        if "CI" in os.environ:
            raise
        pytest.skip(f"{case.needs} is not installed")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_a_family_answers_as_its_original(case: Case, found: dict[str, Row]) -> None:
    """Through the server's decoder and engine; what is refused says so, with a fix."""
    _require(case)
    if case.expect == "refused":
        with pytest.raises(ConversionRefused) as caught:
            converted(case)
        assert caught.value.hint
        found[case.key] = Row("", "", "refused")
        return
    estimator, frame, _, made = converted(case)
    certificate = made.certificate
    assert certificate["runtime"] == case.expect
    assert certificate["verdict"] in ("exact", "close")
    rows = frame.head(ROWS)
    with answering(made) as ask:
        difference, flips = unlike(made, estimator, rows, ask(request(made.contract, rows)))
        assert flips == 0
        assert certificate["verdict"] == "close" or difference <= 1e-5
        row = Row(
            certificate["runtime"],
            made.contract.precision,
            certificate["verdict"],
            certificate["max_difference"],
            certificate["label_flips"],
        )
        if WRITE:
            served, original = timed(made, estimator, frame, ask)
            row = replace(row, served_us=served, original_us=original)
    found[case.key] = row


@pytest.mark.parametrize("case", [case for case in CASES if case.key in LOGGED], ids=lambda case: case.key)
def test_a_form_of_contract_can_be_logged(case: Case, tmp_path: Path) -> None:
    """Reference, card and golden rows of it, and the golden rows again in a child."""
    estimator, frame, labels = case.make()
    bundle = build_bundle(estimator, frame, labels, name="family", to=tmp_path / "b")
    assert bundle.certificate["verdict"] == "exact"


def test_keys_are_unique() -> None:
    """A key stands for one row of the table."""
    assert len({case.key for case in CASES}) == len(CASES)
