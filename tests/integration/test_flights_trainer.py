"""The example's trainers on real flights: exact as ONNX, and the drift is where it was measured."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from examples import flights
from examples.flights import report, source, trainer
from examples.flights.data import features, load, load_late
from registry.export import to_onnx
from registry.infer import infer_contract
from registry.log import build_bundle
from registry.original import predict_original
from registry.parity import answers, predict_onnx
from registry.tensors import pack_frame

PARITY_ROWS = 5_000


@dataclass(frozen=True)
class Window:
    start: datetime
    end: datetime


def months(first: int, last: int) -> Window:
    """From the start of month `first` to the end of month `last` < 12."""
    return Window(datetime(2013, first, 1, tzinfo=UTC), datetime(2013, last + 1, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def winter() -> Any:
    return trainer.train(load(months(1, 3)))


def hard_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Real rows, some with every nullable column gone and some with texts never seen."""
    rows = frame[features].sample(PARITY_ROWS, random_state=1).reset_index(drop=True)
    rows.loc[:199, list(source.WEATHER)] = np.nan
    rows.loc[200:399, list(source.STRINGS)] = "never seen"
    return rows


def test_the_graph_answers_as_the_pipeline_does(winter: Any) -> None:
    """5,000 real rows of the summer: differences stay within the last bits of float32."""
    contract = infer_contract(winter, load(months(1, 3))[features], "flight-time")
    rows = hard_rows(load(months(7, 7)))
    served = answers(contract, predict_onnx(to_onnx(winter, contract), pack_frame(contract, rows)))
    original = predict_original(winter, contract, rows)
    assert np.abs(served.values - original.values).max() / np.abs(original.values).max() < 1e-6
    assert original.values.std() > 50  # they do not agree by being constant


def test_the_classifier_keeps_its_probabilities() -> None:
    """The second model shares the pipeline; its classes are 0 and 1."""
    frame = load_late(months(1, 1))
    model = trainer.train_late(frame)
    contract = infer_contract(model, frame[features], "flight-late")
    assert (0, 1) == contract.output.classes
    rows = hard_rows(load_late(months(7, 7)))
    served = answers(contract, predict_onnx(to_onnx(model, contract), pack_frame(contract, rows)))
    assert np.abs(served.values - predict_original(model, contract, rows).values).max() < 1e-6


def test_training_twice_gives_the_same_model(winter: Any) -> None:
    """Seeded: a run that is resumed after a crash arrives at the same version."""
    again = trainer.train(load(months(1, 3)))
    rows = load(months(4, 4))[features].head(1000)
    np.testing.assert_array_equal(winter.predict(rows), again.predict(rows))


def test_summer_drifts_away_and_retraining_follows(winter: Any) -> None:
    """July: a winter model errs by more than 12 minutes, one of April to June by less than 8."""
    july = load(months(7, 7))
    spring = trainer.train(load(months(4, 6)))
    static = np.abs(winter.predict(july[features]) - july["air_time"]).mean()
    retrained = np.abs(spring.predict(july[features]) - july["air_time"]).mean()
    assert static > 12
    assert retrained < 8


def test_the_monthly_report_scores_the_first_version_on_the_rows_served(winter: Any, tmp_path: Path) -> None:
    """Where version 1 served, both columns agree; where a perfect version served, the loop has no error."""
    frame = load(months(4, 5)).iloc[::40].reset_index(drop=True)
    X = load(months(1, 3)).iloc[::20]
    bundle = build_bundle(winter, X[features], X["air_time"], name="flight-time", to=tmp_path / "bundle")
    april = (frame["_at"] < pd.Timestamp("2013-05-01", tz="UTC")).to_numpy()
    answered = winter.predict(frame[features])
    rows = frame[[*features, "_at"]].assign(
        _label=frame["air_time"].astype("float64"),
        _prediction=np.where(april, answered, frame["air_time"]),
        _version=np.where(april, 1, 2),
    )
    rows.loc[0, "_label"] = np.nan  # a flight that has not landed
    table = report.table(rows, bundle)
    assert ["2013-04", "2013-05"] == table["month"].tolist()
    assert [april.sum() - 1, (~april).sum()] == table["n"].tolist()
    assert ["1", "2"] == table["versions"].tolist()
    assert table["loop_on"][0] == pytest.approx(table["never_retrain"][0], abs=1e-4)
    assert 0 == table["loop_on"][1] < table["never_retrain"][1]
    text = report.markdown(table.assign(loop_on=[20.0, 0.0]))
    assert 1 == text.count("(worse)")
    picture = report.plot(table, tmp_path / "report" / "monthly.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert report.table(rows.assign(_label=np.nan), bundle).empty


def test_the_configuration_names_functions_that_exist() -> None:
    """Each table of perene.toml is accepted by the settings, and its trainer and loader can be called."""
    from monitoring.settings import MonitoringSettings
    from retrain.settings import RetrainSettings
    from retrain.training.code import function

    tables = tomllib.loads((Path(flights.__file__).parent / "perene.toml").read_text())
    assert {"models", "serving"} == set(tables)
    for name, model in tables["models"].items():
        settings = RetrainSettings(**model["retrain"])
        MonitoringSettings(**model["monitoring"])
        assert callable(function(settings.trainer))
        assert settings.loader is not None
        frame = function(settings.loader)(months(2, 2))
        assert {*features, settings.target, "_at"} <= set(frame.columns), name
