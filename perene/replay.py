"""`perene events replay`: which version answers again, and what the versions that were recorded took."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitoring.lake.lake import Lake
from monitoring.reading.api import moment
from monitoring.reading.recorded import Recorded, recorded_versions
from perene.batch import from_cache, from_store, verified
from registry.contract import Contract
from registry.errors import ConfigInvalid, ModelUnknown, PereneError
from registry.names import check_name

if TYPE_CHECKING:
    from perene.config import Settings
    from serving.batch.job import Report
    from serving.replay.job import Replay


def window(since: str | None, until: str | None) -> tuple[int | None, int]:
    """Two moments, or ages, in microseconds since 1970; without an end, now.

    Raises:
        ConfigInvalid: one of them is neither, or the end is not after the start.
    """
    now = datetime.now(UTC)
    start, end = moment(since, now), moment(until, now)
    if start is not None and start >= (end or now):
        raise ConfigInvalid("the window ends before it begins", where="until", expected="a moment after --since")
    return None if start is None else _micros(start), _micros(end or now)


def lake_of(settings: Settings, model: str) -> Lake:
    """The event lake, with something of the model.

    Raises:
        NameInvalid: no model can have this name.
        ModelUnknown: there is nothing of it.
        StoreUnavailable: the lake cannot be reached.
    """
    lake = Lake(settings.places.lake)
    lake.storage.check()
    if check_name(model) not in (known := lake.models()):
        raise ModelUnknown(
            f"the event lake has nothing of '{model}'",
            where="MODEL",
            expected=", ".join(known[:5]),
            hint="events appear a few seconds after the first prediction",
        )
    return lake


def replay_onto(asked: Replay, model: str, onto: int, settings: Settings, *, report: Report) -> dict[str, Any]:
    """Answer recorded traffic again by version `onto`, in this process, and compare.

    Args:
        asked: output and window.
        model: name of the model.
        onto: version that answers.
        settings: where the stores are, and how the engine runs.
        report: told of progress.

    Raises:
        PereneError: the version cannot be loaded, or the replay is refused; see `serving.replay.job.replay`.
    """
    from serving.batch.journal import Model
    from serving.batch.rows import Scorer
    from serving.replay.fit import ReplayRefused
    from serving.replay.job import begun, replay

    where = str(settings.places.lake)
    asked = begun(asked, where)
    lake = lake_of(settings, model)
    files = Recorded(lake, model, low=asked.start, high=asked.end).files()
    if not files:
        raise ReplayRefused(
            f"nothing of '{model}' is recorded in this window", where="--since", hint="widen the window"
        )
    with tempfile.TemporaryDirectory(prefix="perene-") as scratch:
        bundle = verified(settings, model, onto, Path(scratch))
        recorded = {n: contract_of(settings, model, n, Path(scratch)) for n in recorded_versions(files)}
        with Scorer(bundle, settings.serving) as scorer:
            answers = Model(model, onto, bundle.digest)
            found = replay(asked, lake, scorer, answers, recorded, where=where, report=report)
            return {"model": model, "onto": onto, "digest": bundle.digest, "provider": scorer.provider} | found


def contract_of(settings: Settings, model: str, version: int, scratch: Path) -> Contract:
    """What a version that answered took, whether or not it may serve today.

    Raises:
        PereneError: neither the server's cache nor MLflow has it.
    """
    bundle = from_cache(settings, model, version)
    try:
        return (bundle or from_store(settings, model, version, scratch / f"recorded-{version}")).contract
    except PereneError as error:
        error.message = f"version {version}, which answered in this window: {error.message}"
        raise


def _micros(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)
