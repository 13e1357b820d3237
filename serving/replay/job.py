"""A replay: a batch job whose rows come from the event lake, and whose output compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitoring.lake.lake import Lake
from registry.contract import Contract
from serving.batch.input_file import Identity
from serving.batch.job import Asked, Order, Report, carry_out, check_output
from serving.batch.journal import FORMAT, Job, Journal, Model, Options, Traffic
from serving.batch.rows import Scorer
from serving.replay.compare import Comparison
from serving.replay.fit import ReplayRefused, fit
from serving.replay.source import RecordedRows
from serving.replay.summary import summary


@dataclass(frozen=True)
class Replay:
    """What the caller wants; moments are microseconds since 1970, `since` and `until` the words that meant them."""

    out: Path
    start: int | None
    end: int
    since: str = ""
    until: str = ""
    without_dropped: bool = False
    rows_per_part: int = 100_000


def begun(asked: Replay, lake: str) -> Replay:
    """The same with the moments of the job that was begun, so that "7d" goes on meaning the same week.

    Raises:
        ReplayRefused: the job that was begun is about other traffic.
        BatchRefused: the output cannot be written.
    """
    check_output(Asked(asked.out, asked.out))
    folder = asked.out.with_name(f".{asked.out.name}.parts")
    job = Journal(folder).job if folder.is_dir() else None
    if job is None:
        return asked
    found, mine = job.traffic, _traffic(asked, lake)
    if found is None:
        raise ReplayRefused(f"{folder}: another job's", where="--out", hint="choose another name for the output")
    for name, flag in {"lake": "event lake", "since": "--since", "until": "--until", "without_dropped": ""}.items():
        before = getattr(found, name)
        if before != getattr(mine, name):
            raise ReplayRefused(
                f"this replay began with another {flag or '--without-dropped'}: {before or 'none'}",
                where=flag or "--without-dropped",
                hint=f"give that one, or delete {folder} to begin anew",
            )
    return Replay(
        asked.out, found.start, found.end, asked.since, asked.until, asked.without_dropped, asked.rows_per_part
    )


def replay(
    asked: Replay,
    lake: Lake,
    scorer: Scorer,
    model: Model,
    recorded: Mapping[int, Contract],
    *,
    where: str,
    report: Report = lambda *_: None,
) -> dict[str, Any]:
    """Answer recorded rows again, or go on with that, and compare; the output appears when it is complete.

    Args:
        asked: output and window, as `begun` says.
        lake: what is recorded.
        scorer: the loaded version.
        model: which it is.
        recorded: contracts of the versions that answered in the window.
        where: how the lake is called.
        report: told of progress.

    Raises:
        ReplayRefused: the rows do not fit the version.
        BatchRefused, FileUnsound, InferenceFailed, StoreUnavailable: as `serving.batch.job.score`.
    """
    contract = scorer.contract
    fits = fit(contract, recorded, without_dropped=asked.without_dropped)
    source = RecordedRows(lake, contract, low=asked.start, high=asked.end, missing=fits.missing)
    if not source.total:
        raise ReplayRefused(
            f"nothing of '{model.name}' is recorded in this window", where="--since", hint="widen the window"
        )
    comparison = Comparison(source, contract.output, fits.orders)
    options = Options(asked.out.name, "null", [], asked.rows_per_part, scorer.decoder.mode)
    traffic = _traffic(asked, where)
    job = Job(FORMAT, Identity(0, 0, "", source.schema), model, options, traffic)
    batch = Asked(Path(f"traffic of {model.name}"), asked.out, "null", (), asked.rows_per_part)
    done = carry_out(Order(batch, job, comparison.schema, make=comparison), scorer, source, report=report)
    return summary(asked.out, contract.output) | {"resumed": done.resumed, "seconds": round(done.seconds, 3)}


def _traffic(asked: Replay, lake: str) -> Traffic:
    return Traffic(lake, asked.since, asked.until, asked.without_dropped, asked.start, asked.end)
