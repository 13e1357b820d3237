"""The model that every server answers with: 2 strings, 18 floats, 82 boosted trees, on real flights.

`python -m bench.serving.subject` makes it below build/bench: a Perene home that serves it, the same ONNX graph and
the fitted pipeline for the peers, and rows with the pipeline's own answers. Nothing is made twice.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path("build/bench")
FOLDER = ROOT / "subject"
NAME = "bench"
STRINGS = ("carrier", "origin")
TREES = 82
ROWS = 20_000
SEED = 2013
CHECKED_ROWS = 50
BULK_ROWS = 100

Row = dict[str, str | float]


@dataclass(frozen=True)
class Subject:
    """The model on disk. `folder` holds home/, model.onnx, pipeline.joblib, rows.json and nodes.json."""

    folder: Path
    name: str = NAME

    @property
    def home(self) -> Path:
        """Perene's home, with this model deployed."""
        return self.folder / "home"

    @property
    def key(self) -> str:
        """An API key with the scopes predict, feedback and read."""
        return (self.home / "keys" / "local").read_text().strip()

    @cached_property
    def _kept(self) -> dict[str, Any]:
        kept: dict[str, Any] = json.loads((self.folder / "rows.json").read_text())
        return kept

    @property
    def rows(self) -> list[Row]:
        """Real rows the model was not fitted on."""
        rows: list[Row] = self._kept["rows"]
        return rows

    @property
    def answers(self) -> list[float]:
        """What the original pipeline answers to `rows`."""
        answers: list[float] = self._kept["answers"]
        return answers

    @property
    def nodes(self) -> int:
        """Nodes of all trees."""
        return int(self._kept["nodes"])

    @property
    def numbers(self) -> list[str]:
        """Names of the columns of floats, in the order of the graph's tensor."""
        return [name for name in self.rows[0] if name not in STRINGS]


def prepare() -> Subject:
    """The subject, made on the first call: a minute or so."""
    subject = Subject(FOLDER)
    if made(FOLDER):
        return subject
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    frame, target = flights()
    pipeline = fit(frame.iloc[:ROWS], target[:ROWS])
    deploy(pipeline, frame.iloc[:ROWS], target[:ROWS], name=NAME, home=subject.home)
    bundle = next((subject.home / "artifacts").rglob("model.onnx"))
    shutil.copy(bundle, FOLDER / "model.onnx")

    import joblib

    joblib.dump(pipeline, FOLDER / "pipeline.joblib")
    asked = frame.iloc[ROWS : ROWS + BULK_ROWS]
    kept = {
        "rows": [dict(zip(frame.columns, map(_plain, row), strict=True)) for row in asked.itertuples(index=False)],
        "answers": pipeline.predict(asked).tolist(),
        "nodes": sum(len(trees[0].nodes) for trees in pipeline[-1]._predictors),
    }
    (FOLDER / "rows.json").write_text(json.dumps(kept))
    return subject


def made(folder: Path) -> bool:
    """Whether a subject is there and younger than the code that writes what is in it."""
    file = folder / "rows.json"
    code = max(path.stat().st_mtime for path in (*Path("registry").rglob("*.py"), Path(__file__)))
    return file.is_file() and file.stat().st_mtime > code


def flights() -> tuple[pd.DataFrame, Any]:
    """Rows without nulls, in a seeded order, and minutes in the air."""
    import numpy as np
    import pandas as pd

    from examples.flights import source

    table = source.flights().sample(ROWS + BULK_ROWS, random_state=SEED, ignore_index=True)
    numbers = table[[*source.INTEGERS, *source.WEATHER]].astype("float64")
    day = 2 * np.pi * numbers["scheduled_departure"] / 1440
    week = 2 * np.pi * numbers["weekday"] / 7
    added = {
        "day_sin": np.sin(day),
        "day_cos": np.cos(day),
        "week_sin": np.sin(week),
        "week_cos": np.cos(week),
        "spread": numbers["temp"] - numbers["dewp"],
    }
    numbers = numbers.assign(**added)
    # five decimals: the JSON of a row then gives the same float32 to everybody
    numbers = numbers.fillna(numbers.median()).round(5).astype("float32")
    return pd.concat([table[list(STRINGS)], numbers], axis=1), table["air_time"].to_numpy("float64")


def fit(frame: pd.DataFrame, target: Any) -> Any:
    """One-hot text, numbers as they are, boosted trees."""
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    text = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype="float32")
    columns = make_column_transformer((text, list(STRINGS)), remainder="passthrough")
    trees = HistGradientBoostingRegressor(max_iter=TREES, early_stopping=False, random_state=SEED)
    return make_pipeline(columns, trees).fit(frame, target)


def deploy(estimator: Any, frame: pd.DataFrame, target: Any, *, name: str, home: Path, versions: int = 1) -> None:
    """Log `versions` versions into a Perene home, the first one deployed, with a key for this machine."""
    os.environ["DO_NOT_TRACK"] = "true"
    from perene.api import log_model
    from perene.config import load
    from perene.keyring import LOCAL, ensure_key

    home.mkdir(parents=True, exist_ok=True)
    settings = load(home=home)
    for _ in range(versions):
        log_model(estimator, frame, target, name=name, settings=settings)
    ensure_key(settings, *LOCAL)


def _plain(value: Any) -> str | float:
    return value if isinstance(value, str) else round(float(value), 5)


def main() -> None:
    """Make it and say what it is."""
    subject = prepare()
    print(f"{subject.folder}: {len(subject.numbers)} floats, {len(STRINGS)} strings, {subject.nodes} nodes")


if __name__ == "__main__":
    main()
