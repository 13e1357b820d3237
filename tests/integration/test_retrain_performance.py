"""A report on a classifier whose callers are hostile: figures are right, texts are text, hidden columns stay hidden."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monitoring.lake.lake import Lake
from monitoring.reading.examples import examples
from monitoring.reading.period import fold
from monitoring.reports.page import Page, html, markdown
from monitoring.settings import MonitoringSettings
from registry.baseline import build_baseline
from registry.bundle import Bundle
from registry.contract import Column, Contract, Output
from registry.original import Answers
from registry.reference import build_reference
from retrain.reports import finding_page
from retrain.reports.performance import _quality
from retrain.reports.performance_page import page
from retrain.reports.report_spec import Spec

EVIL = "<script>alert(1)</script>|x"
START = datetime(2026, 3, 2, tzinfo=UTC)
ROWS = 600
SECRET = "anna@example.org"
CONTRACT = Contract(
    "late",
    (Column("size", "float"), Column(EVIL, "string"), Column("email", "string", policy="hash"),
     Column("iban", "string", policy="drop")),
    Output("classification", ("no", "yes")),
)  # fmt: skip


def drawn(seed: int, n: int) -> tuple[dict[str, Any], Any, Any]:
    """Columns, probabilities of `yes`, and classes that follow them."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0, 1, n)
    frame = {"size": rng.standard_normal(n), EVIL: np.where(rng.random(n) < 0.5, EVIL, "b").astype(object)}
    return frame, p, np.where(rng.random(n) < p, "yes", "no").astype(object)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """What a version keeps of its validation rows, with slices of the hostile column."""
    frame, p, classes = drawn(1, 2_000)
    values = np.stack([1 - p, p], axis=1)
    losses = (p - (classes == "yes")) ** 2
    reference = build_reference(CONTRACT, frame, values, losses, 1.0, {"log_loss": 0.5})
    answers = Answers(values, np.argmax(values, axis=1))
    reference["baseline"] = build_baseline(CONTRACT, answers, classes, frame, slices=[EVIL])
    return Bundle(Path("."), CONTRACT, {}, reference, {}, "")


def write(root: Path, name: str, kind: str, columns: dict[str, Any]) -> None:
    """One file of the lake, as a shipper of any version may have left it."""
    stamps = pa.timestamp("us", tz="UTC")
    n = len(columns["_id"])
    known = {"_boot": [name] * n, "_seq": list(range(n)), "_received": columns["_at"]}
    made = {
        key: pa.array(value, stamps) if key in ("_at", "_received") else pa.array(value)
        for key, value in {**columns, **known}.items()
    }
    folder = root / "model=late" / f"kind={kind}" / f"date={START:%Y-%m-%d}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(made), folder / f"{name}.parquet")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A day of the champion's answers, two thirds labelled, and of another version that took `size` as a text."""
    frame, p, classes = drawn(2, ROWS)
    at = [START + timedelta(minutes=n) for n in range(ROWS)]
    common: dict[str, Any] = {"_at": at, "_model": ["late"] * ROWS, "_arm": ["champion"] * ROWS}
    common |= {"_entity": [""] * ROWS, "_latency_ms": [2.0] * ROWS, "_key": ["k"] * ROWS}
    answers = {
        "_prediction": np.where(p >= 0.5, "yes", "no").tolist(),
        "_probabilities": [[1 - x, x] for x in p],
    }
    hidden = {"email": [SECRET] * ROWS, "iban": [SECRET] * ROWS}
    ids = [f"a-{n:04d}" for n in range(ROWS)]
    mine = {**frame, **hidden, **common, **answers, "_id": ids, "_version": [7] * ROWS}
    write(tmp_path, "mine-0-599-v7", "prediction", mine)
    other = {**common, **answers, "_id": [f"b-{n:04d}" for n in range(ROWS)], "_version": [6] * ROWS}
    write(tmp_path, "other-0-599-v6", "prediction", {**other, "size": ["large"] * ROWS, EVIL: ["b"] * ROWS})
    labels = [EVIL if n % 100 == 0 else str(value) for n, value in enumerate(classes)][:400]
    write(tmp_path, "labels-0-399", "label", {"_id": ids[:400], "_at": at[:400], "_label": labels})
    return Lake(tmp_path)


def made(lake: Lake, bundle: Bundle, *metrics: str) -> Page:
    """The page, without any history."""
    spec = Spec("performance", "k", "late", 7, "", "", low=None, high=None)
    period = fold(lake, bundle, 7, low=None, high=None)
    told: dict[str, Any] = {"snapshot": {}, "findings": [], "reports": {}, "runs": [], "trials": [], "moves": []}
    return page(spec, bundle, period, _quality(bundle, period, MonitoringSettings(metrics=metrics)), told)


def test_losses_and_latencies_are_those_of_the_champion_s_labelled_answers(lake: Lake, bundle: Bundle) -> None:
    """Against the figures computed at once; a label that is no class counts as none."""
    _, p, classes = drawn(2, ROWS)
    usable = np.array([n < 400 and n % 100 != 0 for n in range(ROWS)])
    period = fold(lake, bundle, 7, low=None, high=None)
    assert (period.rows, period.losses) == (2 * ROWS, 396)
    assert period.loss is not None
    assert period.loss[0] == pytest.approx(float(((p - (classes == "yes")) ** 2)[usable].mean()), abs=1e-6)
    assert period.latency(0.5) == pytest.approx(2.0, rel=0.02)
    assert period.arms == {(7, "champion"): ROWS, (6, "champion"): ROWS}
    half = fold(lake, bundle, 7, low=None, high=int((START + timedelta(minutes=200)).timestamp() * 1e6))
    assert (half.rows, half.losses) == (400, 198)


def test_hostile_texts_are_text_and_hidden_columns_stay_hidden(lake: Lake, bundle: Bundle) -> None:
    """In both forms, names and values of columns, and slices; the values of hashed and dropped ones nowhere."""
    found = made(lake, bundle, "tests.integration.own:fails")
    for text in (html(found), markdown(found)):
        assert "<script" not in text
        assert "alert" in text, "the control: the column is told of"
        assert SECRET not in text
        assert "email (hash), iban (drop)" in text
        assert "failed: KeyError" in text
        assert "secret" not in text
    lines = markdown(found).splitlines()
    rows = [line for line in lines if line.startswith("| &lt;script")]
    assert len(rows) == 3, "the column among the inputs, and its two slices"
    assert {"Quality by slice", "Quality", "Traffic"} <= {section.title for section in found.sections}


def test_example_rows_of_a_finding_show_stored_columns_only(lake: Lake, bundle: Bundle) -> None:
    """Of a hostile and of a hidden column: five rows of the first; ids are what is kept, the page escapes."""
    window = {"start": START.isoformat(), "end": (START + timedelta(minutes=ROWS)).isoformat(), "rows": ROWS}
    body: dict[str, Any] = {
        "kind": "data_quality", "state": "broken", "severity": "high", "at": window["end"],
        "detail": {"window": window, "flagged": [f"{EVIL}:unseen_ratio", "email", "iban", "no such column"]},
    }  # fmt: skip
    found = examples(lake, "late", CONTRACT, bundle.reference["columns"], body)
    assert len(found) == 5
    assert {one.column for one in found} == {EVIL}
    assert found[0].named().keys() == {"id", "at", "column"}
    shown = finding_page.page("late", body, found)
    for text in (html(shown), markdown(shown)):
        assert SECRET not in text
        assert "<script" not in text
        assert all(one.id in text for one in found)
    body["detail"]["flagged"] = ["email", "iban"]
    assert examples(lake, "late", CONTRACT, bundle.reference["columns"], body) == []
