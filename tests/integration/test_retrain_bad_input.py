"""Trainers, loaders and machines that fail: real children, each ends with a reason that quotes no data."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from registry.errors import TrainingFailed
from registry.infer import infer_contract
from retrain.places import Places
from retrain.settings import RetrainSettings
from retrain.training import data
from retrain.training.spec import Failure, Spec
from retrain.training.windows import Window
from tests.integration import retrain_home as at
from tests.integration import retrain_toy as toy

HERE = "tests.integration.test_retrain_bad_input"
SECRET = "4111-1111"


def raises(_frame: pd.DataFrame) -> Any:
    """A trainer whose error quotes a value."""
    raise ValueError(f"cannot convert {SECRET}")


def a_dict(_frame: pd.DataFrame) -> Any:
    """A trainer that returns no estimator."""
    return {"coef": 1}


def nothing(_frame: pd.DataFrame) -> Any:
    """A trainer that forgets to return."""


def eats(_frame: pd.DataFrame) -> Any:
    """A trainer that wants all memory there is."""
    return [np.ones(1 << 26) for _ in range(64)]


def leaves(_frame: pd.DataFrame) -> Any:
    """A trainer that ends its process."""
    os._exit(3)


def hangs(_frame: pd.DataFrame) -> Any:
    """A trainer that never comes back."""
    time.sleep(600)


def odd_answers(frame: pd.DataFrame) -> Any:
    """An estimator that was fitted on other columns than the champion's."""
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit(frame[["x"]].to_numpy(), frame["y"])


def no_rows(_window: Window) -> pd.DataFrame:
    """A loader that finds nothing."""
    return pd.DataFrame({"x": [], "z": [], "y": [], "_at": []})


def other_columns(window: Window) -> pd.DataFrame:
    """A loader of another table."""
    return pd.DataFrame({"x": [1.0], "y": [2.0], "_at": [window.start]})


def no_frame(_window: Window) -> Any:
    """A loader that returns a list."""
    return [1, 2]


def no_times(_window: Window) -> pd.DataFrame:
    """A loader whose times are none."""
    return pd.DataFrame({"x": [1.0], "z": [1.0], "y": [2.0], "_at": [SECRET]})


def refuses(_window: Window) -> pd.DataFrame:
    """A loader whose database is away, and whose error holds an address."""
    raise ConnectionError(f"postgresql://me:{SECRET}@host")


def one_class(window: Window) -> pd.DataFrame:
    """A loader whose labels are all alike."""
    at = pd.date_range(window.start, periods=100, freq="min", tz="UTC")
    return pd.DataFrame({"a": np.arange(100.0), "y": ["yes"] * 100, "_at": at})


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a child is told, of a run that was begun and did nothing yet; without a leader's token."""
    home = tmp_path_factory.mktemp("bad")
    at.make(home)
    with at.working(home) as worker:
        _, spec = at.begun(worker)
    found: dict[str, Any] = json.loads(spec.read_text())
    return found


def written(begun: dict[str, Any], name: str, **settings: Any) -> Path:
    """A specification in a folder of its own."""
    folder = Places(Path(begun["home"])).run(f"bad-{name.replace(' ', '-')}")
    folder.mkdir(parents=True)
    spec = begun | {"run_id": folder.name, "settings": begun["settings"] | settings}
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder


def ended(begun: dict[str, Any], name: str, *, limit: int | None = None, **settings: Any) -> tuple[int, Path]:
    """The exit status and the folder of a child with these settings."""
    folder = written(begun, name, **settings)
    command = [sys.executable, "-m", "retrain.training.child", str(folder / "spec.json")]

    def small_files() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with (folder / "log.txt").open("wb") as log:
        done = subprocess.run(command, check=False, timeout=120, stdout=log, stderr=log, preexec_fn=small_files)
    return done.returncode, folder


ONE_AFTER_THE_OTHER = """
import sys
from retrain.training.child import main
for spec in sys.argv[1:]:
    print("status", main([spec]), flush=True)
"""


@pytest.fixture(scope="module")
def failures(begun: dict[str, Any]) -> dict[str, tuple[int, Path]]:
    """Exit status and folder of each case, one after the other in one process, which imports what they need once."""
    folders = {name: written(begun, name, **settings) for name, settings, *_ in CASES}
    specs = [str(folder / "spec.json") for folder in folders.values()]
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER, *specs], check=True, timeout=240, capture_output=True, text=True
    )
    found = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("status ")]
    return dict(zip(folders, zip(found, folders.values(), strict=True), strict=True))


CASES: list[tuple[str, dict[str, Any], str, str, str]] = [
    ("raises", {"trainer": f"{HERE}:raises"}, "training_failed", "the trainer raised ValueError", "train"),
    ("dict", {"trainer": f"{HERE}:a_dict"}, "training_failed", "fitted dict does not answer", "train"),
    ("nothing", {"trainer": f"{HERE}:nothing"}, "training_failed", "fitted NoneType does not answer", "train"),
    ("odd", {"trainer": f"{HERE}:odd_answers"}, "training_failed", "does not answer the holdout", "train"),
    ("no module", {"trainer": "no.such:thing"}, "config_invalid", "cannot be imported", "snapshot"),
    ("no rows", {"loader": f"{HERE}:no_rows"}, "training_failed", "no labelled rows", "snapshot"),
    ("columns", {"loader": f"{HERE}:other_columns"}, "training_failed", "no column 'z'", "snapshot"),
    ("a list", {"loader": f"{HERE}:no_frame"}, "training_failed", "the loader returned list", "snapshot"),
    ("no times", {"loader": f"{HERE}:no_times"}, "training_failed", "'_at' holds something", "snapshot"),
    ("refuses", {"loader": f"{HERE}:refuses"}, "training_failed", "the loader raised ConnectionError", "snapshot"),
    ("memory", {"trainer": f"{HERE}:eats", "training_memory_mb": 2048}, "out_of_memory", "memory limit", "train"),
]


@pytest.mark.parametrize(("name", "settings", "code", "said", "step"), CASES, ids=[case[0] for case in CASES])
def test_a_failure_is_told_with_its_step_and_without_values(
    failures: dict[str, tuple[int, Path]], name: str, settings: dict[str, Any], code: str, said: str, step: str
) -> None:
    """The reason names what failed; the text of somebody's error, which may hold data, stays in the log."""
    status, folder = failures[name]
    assert status == 1, settings
    told = msgspec.json.decode((folder / "failure.json").read_bytes(), type=Failure)
    assert (told.code, told.step) == (code, step)
    assert said in told.message
    assert SECRET not in told.message
    assert not (folder / "result.json").exists()


def test_a_trainer_that_ends_its_process_leaves_no_result(begun: dict[str, Any]) -> None:
    status, folder = ended(begun, "leaves", trainer=f"{HERE}:leaves")
    assert status == 3
    assert not (folder / "result.json").exists()


def test_too_few_labels_are_refused_and_no_failure(begun: dict[str, Any]) -> None:
    """The answer is a gate's: insufficient is no pass."""
    status, folder = ended(begun, "few", min_labels=5_000)
    assert status == 0
    result = json.loads((folder / "result.json").read_text())
    assert result["outcome"] == "refused"
    assert "too small" in result["context"]["why"]


def test_a_full_disk_is_a_reason(begun: dict[str, Any]) -> None:
    """Files that may not grow: the run fails, or is ended by the kernel, and leaves neither result nor half a file."""
    status, folder = ended(begun, "full", limit=8 * 1024)
    assert status not in (0, 75)
    assert not (folder / "result.json").exists()
    assert not (folder / "snapshot.parquet").exists()


def test_a_trainer_that_hangs_is_ended_and_the_champion_stays(tmp_path: Path) -> None:
    """By its time limit; the row says so, with the time of the next attempt, and the metric counts it."""
    home = tmp_path / "home"
    at.make(home)
    settings = toy.settings(training_timeout_s=5.0).model_dump(mode="json")
    settings["models"][toy.MODEL]["retrain"]["trainer"] = f"{HERE}:hangs"
    with at.working(home, toy.settings().model_validate(settings)) as worker:
        run = at.ticked(worker)
        assert (run.status, run.body["code"]) == ("failed", "timeout")
        assert run.body["next_attempt"] > run.body["spec"]["now"]
        deployment = worker.ledger.deployments()[toy.MODEL]
        assert (deployment.champion, deployment.candidate) == (1, None)
        worker.tick()
        registry = worker.gauges.metrics.registry
        assert registry.get_sample_value("perene_retrain_held", {"model": toy.MODEL, "brake": "cooldown"}) == 1
        assert (registry.get_sample_value("perene_retrain_next_timestamp_seconds", {"model": toy.MODEL}) or 0) > 0


def test_labels_of_one_class_are_no_lesson(tmp_path: Path) -> None:
    """A classifier learns nothing from them: the run fails before it trains."""
    from sklearn.linear_model import LogisticRegression

    frame = pd.DataFrame({"a": np.arange(100.0, dtype=np.float32)})
    estimator = LogisticRegression().fit(frame, np.where(frame["a"] > 50, "yes", "no"))
    contract = infer_contract(estimator, frame, "toy")
    settings = RetrainSettings(trainer="a:b", loader=f"{HERE}:one_class", target="y")
    window = Window(toy.START, pd.Timestamp(toy.START) + pd.Timedelta(days=2))
    with pytest.raises(TrainingFailed, match="all of one class"):
        data.load(settings, "toy", contract, window, Places(tmp_path))


def test_a_spec_s_stores_are_not_recorded() -> None:
    """Addresses may hold passwords: what the ledger keeps of a spec has none."""
    from retrain.training.spec import recorded

    spec = Spec("r", "m", "/h", SECRET, SECRET, "manual", toy.START, 1, [], {}, lake_url=SECRET)
    assert SECRET not in str(msgspec.to_builtins(recorded(spec)))
