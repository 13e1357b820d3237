"""The demo: a real year of flights played through the whole loop."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from perene.config import Settings
from perene.live import View
from perene.output import say
from perene.story import Story
from perene.told import meaning, of_version, sentence
from registry.errors import ConfigInvalid, StoreUnavailable, TrainingFailed
from registry.ledger import Ledger

LEAD = timedelta(days=4)
"""How far the replay may be ahead of the worker, in event time."""
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Demo:
    """A named example: its configuration, its first training window and the span that is played."""

    name: str
    model: str
    config: Path
    train: tuple[str, str]
    start: datetime
    end: datetime


def find(name: str) -> Demo:
    """The demo called `name`.

    Raises:
        ConfigInvalid: there is none of this name.
    """
    if name != "flights":
        raise ConfigInvalid(f"there is no demo '{name}'", where="demo", expected="flights")
    spec = importlib.util.find_spec("examples.flights")
    if spec is None or spec.origin is None:
        raise ConfigInvalid("the examples are not installed", where="demo", hint="pip install 'perene[examples]'")
    return Demo(
        name="flights",
        model="flight-time",
        config=Path(spec.origin).parent / "perene.toml",
        train=("2013-01-01", "2013-04-01"),
        start=datetime(2013, 4, 1, tzinfo=UTC),
        end=datetime(2014, 1, 1, tzinfo=UTC),
    )


def prepare(demo: Demo, settings: Settings) -> None:
    """Log the first version if none is deployed, in a child: this process stays light.

    Raises:
        TrainingFailed: the child failed; what it said stands above.
    """
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        if ledger.deployment(demo.model) is not None:
            return
    say(f"training {demo.model} on {demo.train[0]} to {demo.train[1]} and logging it:")
    command = [sys.executable, "-m", "perene.cli", "log", demo.model, "--from", demo.train[0], "--to", demo.train[1]]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [*command, "--home", str(settings.home), "--config", str(demo.config)],
        env={**environment, "DO_NOT_TRACK": "true"},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        raise TrainingFailed(f"the first version of {demo.model} could not be logged", hint="the reason stands above")


def play(demo: Demo, settings: Settings, key: str, *, until_promoted: bool) -> dict[str, Any]:
    """Replay the year, show it, and report monthly quality of the loop against never retraining.

    A replay that was interrupted goes on where it stopped.

    Raises:
        StoreUnavailable: the server stayed away; what was acknowledged is kept.
    """
    progress = settings.home / "demo.json"
    start = _resume(progress, demo)
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        if start < demo.end:
            _replay(demo, settings, key, ledger, start, progress, until_promoted=until_promoted)
        else:
            say(f"the year has been played; remove {settings.home} to play it again")
        return _report(demo, settings, ledger, settings.home / "report")


def _replay(
    demo: Demo,
    settings: Settings,
    key: str,
    ledger: Ledger,
    start: datetime,
    progress: Path,
    *,
    until_promoted: bool,
) -> None:
    from examples.flights.replay import Counts, replay

    url = f"http://{settings.serving.host}:{settings.serving.port}"
    now = Counts(start)
    stop = threading.Event()
    worker = f"http://127.0.0.1:{settings.worker_port}/metrics"
    hold = _Hold(ledger, demo.model, worker, lambda: now.at if now.predictions else None)
    failure: list[BaseException] = []

    def save(counts: Counts) -> None:
        nonlocal now
        now = counts
        _keep(progress, counts.at)

    def body() -> None:
        try:
            done = replay(
                url, key, demo.model, start=start, end=demo.end, hold=hold, on_progress=save, stop=stop.is_set
            )
            if not stop.is_set():
                _keep(progress, max(done.at, demo.end))
        except Exception as error:  # handed over to the main thread, which raises it
            failure.append(error)

    thread = threading.Thread(target=body, name="replay")
    began = time.monotonic()
    story = Story(ledger)
    thread.start()
    try:
        with View(f"perene demo {demo.name}: {demo.model}, a year in minutes") as view:
            while thread.is_alive():
                thread.join(timeout=0.5)
                view.update(_numbers(now, began, settings, waiting=hold.training), story.news())
                if until_promoted and _promoted(ledger, demo.model):
                    stop.set()
            _settle(
                ledger,
                demo.model,
                lambda: view.update(_numbers(now, began, settings, waiting=False), story.news()),
                skip=stop.is_set(),
            )
    finally:
        stop.set()
        thread.join()
    if failure:
        raise StoreUnavailable("the replay broke off", hint="start again: it goes on where it stopped") from failure[0]


class _Hold:
    """Event time stands still while a version is being trained, and while the worker is behind by more than days.

    A run takes seconds and so does a replayed week: without this the loop would answer events of the spring in autumn.
    """

    def __init__(self, ledger: Ledger, model: str, worker: str, reached: Callable[[], datetime | None]) -> None:
        self._ledger = ledger
        self._model = model
        self._worker = worker
        self._reached = reached
        self._looked = 0.0
        self._behind_since: float | None = None
        self._still = False
        self.training = False

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._looked > 0.2:
            self._looked = now
            self.training = any(run.status == "running" for run in self._ledger.runs(self._model, limit=3))
            self._still = self.training or self._behind(now)
        return self._still

    def _behind(self, now: float) -> bool:
        """Whether the worker's event clock is more than LEAD behind; a worker that stays away is not waited for."""
        reached = self._reached()
        clock = _gauges(self._worker).get("perene_monitor_event_timestamp_seconds", 0.0)
        if reached is None or reached.timestamp() - clock <= LEAD.total_seconds():
            self._behind_since = None
            return False
        self._behind_since = self._behind_since or now
        return now - self._behind_since < PATIENCE_S


def _settle(ledger: Ledger, model: str, show: Any, *, skip: bool, seconds: float = 20.0) -> None:
    """After the last event, give the worker time to read the end of the lake."""
    deadline = time.monotonic() + (0 if skip else seconds)
    while time.monotonic() < deadline:
        show()
        time.sleep(0.5)
        busy = any(run.status == "running" for run in ledger.runs(model, limit=3))
        if busy:
            deadline = time.monotonic() + seconds


def _promoted(ledger: Ledger, model: str) -> bool:
    return any(trial.state == "promoted" for trial in ledger.experiments(model))


def _numbers(counts: Any, began: float, settings: Settings, *, waiting: bool) -> dict[str, str]:
    rate = counts.predictions / max(time.monotonic() - began, 1e-9)
    shown = {
        "event time": f"{counts.at:%Y-%m-%d %H:%M}"
        + ("  (standing still: a version is being trained)" if waiting else ""),
        "traffic": f"{counts.predictions:,} predictions, {counts.labels:,} labels, {rate:,.0f}/s",
    }
    gauges = _gauges(f"http://127.0.0.1:{settings.worker_port}/metrics")
    realised, reference = gauges.get("perene_performance_realized"), gauges.get("perene_performance_reference")
    if realised is not None and reference is not None:
        shown["quality"] = f"error {realised:.2f} against {reference:.2f} at certification"
    if "perene_drift_features_flagged" in gauges:
        shown["drift"] = f"{gauges['perene_drift_features_flagged']:.0f} features flagged"
    return shown


def _gauges(url: str) -> dict[str, float]:
    """The first value of each gauge that is shown; nothing while the worker is away."""
    try:
        text = httpx.get(url, timeout=1).text
    except httpx.HTTPError:
        return {}
    wanted = (
        "perene_performance_realized",
        "perene_performance_reference",
        "perene_drift_features_flagged",
        "perene_monitor_event_timestamp_seconds",
    )
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in wanted and sample.labels.get("metric", "mae") == "mae":
                found.setdefault(sample.name, sample.value)
    return found


def _report(demo: Demo, settings: Settings, ledger: Ledger, folder: Path) -> dict[str, Any]:
    """Monthly error of the loop against the first version alone, printed and drawn."""
    from examples.flights.report import markdown, monthly, plot

    bundle = settings.home / "cache" / "bundles" / demo.model / "1"
    folder.mkdir(parents=True, exist_ok=True)
    months = monthly(settings.places.lake, bundle, model=demo.model)
    picture = folder / "monthly.png"
    plot(months, picture)
    (folder / "monthly.md").write_text(markdown(months))
    say(markdown(months))
    say(f"plot: {picture}")
    trials = ledger.experiments(demo.model, limit=1_000)
    rows = ledger.evidence(demo.model, "finding", limit=10_000)
    alarms = [(n, row.body) for n, row in enumerate(rows) if row.body["state"] in ("confirmed", "broken")]
    found = [
        {"told": sentence(body), "means": meaning(of_version(rows[n:], body["detail"]["version"]))}
        for n, body in reversed(alarms)
    ]
    _tell(found)
    return {
        "model": demo.model,
        "findings_confirmed": sum(body["state"] == "confirmed" for _, body in alarms),
        "findings": found,
        "runs": len(ledger.runs(demo.model, limit=1_000)),
        "gates": len(ledger.evidence(demo.model, "gates", limit=1_000)),
        "trials": {trial.experiment_id: trial.state for trial in trials},
        "promoted": sum(trial.state == "promoted" for trial in trials),
        "champion": getattr(ledger.deployment(demo.model), "champion", None),
        "months": json.loads(months.to_json(orient="records")),
        "plot": str(picture),
    }


def _tell(found: list[dict[str, str]]) -> None:
    """What was found in the year, why, and what it asked for."""
    if found:
        say("found:")
    for each in found:
        say(f"  {each['told']}")
        if each["means"]:
            say(f"    {each['means']}")


def _resume(path: Path, demo: Demo) -> datetime:
    if not path.is_file():
        return demo.start
    return max(demo.start, datetime.fromisoformat(json.loads(path.read_text())["at"]))


def _keep(path: Path, at: datetime) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"at": at.isoformat()}))
    os.replace(temporary, path)
