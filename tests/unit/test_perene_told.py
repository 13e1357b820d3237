"""What was found is told in plain words: by the status, by the story of a demo, from findings that a monitor made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from monitoring.settings import MonitoringSettings
from monitoring.watching.findings import Finding
from monitoring.watching.monitor import Monitor
from perene.cli import app
from perene.config import load
from perene.status import overview
from perene.story import Story
from perene.told import meaning, of_version, sentence, standing
from registry.contract import Column, Contract, Output
from registry.ledger import Evidence, Ledger
from registry.loss import bounded_loss
from registry.reference import build_reference

CONTRACT = Contract("trips", (Column("x", "float"), Column("idle", "float")), Output("regression"))
SETTINGS = MonitoringSettings(window_rows=100, min_rows=50)
T0 = 1_700_000_000


def reference() -> dict[str, Any]:
    """`x` makes the score, `idle` does nothing."""
    rng = np.random.default_rng(7)
    frame = {"x": rng.normal(0, 1, 2_000), "idle": rng.normal(0, 1, 2_000)}
    losses = bounded_loss(CONTRACT.output, frame["x"] + rng.normal(0, 1, 2_000), frame["x"], 10.0)
    return build_reference(CONTRACT, frame, frame["x"], losses, 10.0, {"mae": 0.8})


def found(*, x: float = 0.0, idle: float = 0.0, nulls: float = 0.0, error: float | None = None) -> list[Finding]:
    """What a monitor makes of 600 rows; without `error` there are no labels."""
    rng, n = np.random.default_rng(1), 600
    values = rng.normal(x, 1, n)
    at = pa.array([(T0 + 100 * i) * 1_000_000 for i in range(n)], pa.timestamp("us", tz="UTC"))
    made = pa.table(
        {
            "x": pa.array(np.where(rng.random(n) < nulls, np.nan, values), from_pandas=True),
            "idle": rng.normal(idle, 1, n),
            "_id": [f"p{i}" for i in range(n)],
            "_at": at,
            "_seq": range(n),
            "_version": [1] * n,
            "_arm": ["champion"] * n,
            "_prediction": values,
            "_probabilities": pa.array([[]] * n, pa.list_(pa.float32())),
        }
    )
    told = pa.table({})
    if error is not None:
        labels = values + rng.normal(0, error, n)
        told = pa.table({"_id": made["_id"], "_label": labels, "_at": at, "_received": at, "_seq": range(n)})
    return Monitor.start("trips", 1, CONTRACT, reference(), SETTINGS).observe(made, told)


def rows(findings: list[Finding], ledger: Ledger) -> list[Evidence]:
    """As the worker keeps them, newest first."""
    for finding in findings:
        ledger.record_evidence("trips", "finding", finding.to_dict())
    return of_version(ledger.evidence("trips", "finding", limit=100), 1)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")) as opened:
        yield opened


def test_a_drift_names_its_cause_before_what_moved_more(ledger: Ledger) -> None:
    """Effect times importance: the column that the model does not heed comes last, however far it moved."""
    known = rows(found(x=0.6, idle=0.9), ledger)
    alarms = {row.body["kind"]: sentence(row.body) for row in standing(known)}
    assert set(alarms) == {"feature_drift", "score_drift"}
    told = alarms["feature_drift"]
    assert told.startswith("feature_drift: confirmed (")
    assert 0 < told.index("x (PSI 0.") < told.index("idle (PSI ")
    assert "importance" in told
    assert "moves the score by +0." in told
    assert "the score (PSI " in alarms["score_drift"]
    assert meaning(known).startswith("inputs moved and no labels tell yet whether it matters. To do: send labels")


def test_a_loss_is_told_in_its_metric_and_what_to_do_depends_on_drift(ledger: Ledger) -> None:
    """Proven by labels; without drift what there is to learn has changed."""
    known = rows(found(error=6.0), ledger)
    (alarm,) = standing(known)
    told = sentence(alarm.body)
    assert told.startswith("performance: confirmed (high) at ")
    assert ", 0.8 on the reference, since 2023-11-" in told
    assert "mae " in told
    assert "what there is to learn has changed. To do: retrain on what came since" in meaning(known)


def test_broken_data_comes_first_and_stops_everything_else(ledger: Ledger) -> None:
    """Column, fault and both shares; labels that prove a loss as well do not make it a retraining."""
    known = rows(found(nulls=0.5, error=6.0), ledger)
    alarms = standing(known)
    assert alarms[0].body["kind"] == "data_quality"
    assert "performance" in {row.body["kind"] for row in alarms}
    told = sentence(alarms[0].body)
    assert "broken (high)" in told
    assert "x: null " in told
    assert told.endswith("%, 0.0% in the reference")
    assert meaning(known).endswith("To do: mend the data; until then nothing is trained on it")


def test_nothing_is_told_while_nothing_stands(ledger: Ledger) -> None:
    """Calm rows, and findings about a champion that serves no more."""
    known = rows(found(error=0.5), ledger)
    assert known
    assert (standing(known), meaning(known)) == ([], "")
    rows(found(x=0.9), ledger)
    assert of_version(ledger.evidence("trips", "finding"), 2) == []


def test_status_and_story_tell_it(tmp_path: Path) -> None:
    """The command: a row on stdout, the finding, its cause and what to do on stderr; JSON has both."""
    settings = load(home=tmp_path)
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        ledger.move("trips", expected_revision=0, champion=1, actor="me", reason="first version")
        known = rows(found(x=0.6, error=6.0), ledger)
        first = standing(known)[0].id
        ledger.record_evidence("trips", "report", {"key": f"finding-{first}", "finding": first, "evidently": ["x"]})
        lines = [line.text for line in Story(ledger).news() if line.kind == "finding"]
    (row,) = overview(settings)
    assert row["finding"] == "performance confirmed"
    assert [body["kind"] for body in row["findings"]] == ["performance", "score_drift", "feature_drift"]
    done = CliRunner().invoke(app, ["status", "trips", "--home", str(tmp_path)])
    assert done.exit_code == 0
    assert done.stdout.split("\t")[:2] == ["trips", "1"]
    assert [line.removeprefix("trips: ") for line in done.stderr.splitlines()] == row["told"]
    *_, means, report = row["told"]
    assert means == "inputs moved and the loss rose with them. To do: retrain on the newest rows"
    assert report == f"report: {tmp_path}/reports/trips/finding-{first} (Evidently: drift in x)"
    assert {row["told"][0], f"  {means}"} <= set(lines)
