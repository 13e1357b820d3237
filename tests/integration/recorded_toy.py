"""Traffic of the toy in a lake, recorded as servers record it, with answers known by heart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from monitoring.intake.blocks import Answered, block_of_answers
from monitoring.intake.events import Event, LabelEvent
from monitoring.intake.ids import uuid7s
from monitoring.lake.lake import Lake
from registry.bundle import read_bundle, seal
from registry.contract import Column, Contract
from serving.batch.journal import Model
from serving.batch.rows import Scorer
from serving.replay.job import Replay, begun, replay
from serving.settings import ServingSettings
from tests.integration.batch_files import NAMES, toy_rows

NOON: Final = 1_772_366_400.0
"""2026-03-01T12:00:00Z"""
DAY: Final = 86_400.0
EVER: Final = 4_102_444_800_000_000


class Recorder:
    """Writes requests into a lake, as one process with consecutive numbers."""

    def __init__(self, lake: Lake, contract: Contract, *, boot: str = "boot", version: int = 1) -> None:
        self.lake = lake
        self.contract = contract
        self.boot = boot
        self.version = version
        self.ids: list[str] = []
        self._next = 1

    def requests(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        at: float = NOON,
        size: int = 5,
        offset: float = 100.0,
        key: str = "k",
        received: float | None = None,
        every_s: float = 0.01,
    ) -> None:
        """One file of requests, `size` rows each, answered `hour + offset`, each `every_s` after the last."""
        answers, firsts, first = [], [], self._next
        for n in range(0, len(rows), size):
            some = rows[n : n + size]
            moment = at + every_s * n
            ids = uuid7s(len(some))
            values = [tuple(row[c.name] for c in self.contract.columns) for row in some]
            told = [row["hour"] + offset for row in some]
            came = moment if received is None else received + every_s * n
            answers.append(
                Answered(self.contract, self.version, "champion", moment, came, "", key, 1.5, ids, values, told, None)
            )
            firsts.append(self._next)
            self.ids += ids
            self._next += len(some)
        self.write([(first, block_of_answers(firsts, answers))], first, self._next - 1)

    def labels(self, ids: Sequence[str], value: float, *, at: float = NOON) -> None:
        """One file of labels."""
        first = self._next
        self._next += len(ids)
        events: list[tuple[int, Event]] = [
            (first + n, LabelEvent(name, self.contract.model, value, at, at)) for n, name in enumerate(ids)
        ]
        self.write(events, first, self._next - 1)

    def write(self, rows: Sequence[tuple[int, Any]], first: int, last: int) -> None:
        """As the shipper does."""
        contracts = {(self.contract.model, self.version): self.contract}
        self.lake.write(rows, boot=self.boot, first=first, last=last, contracts=contracts)


def plain_rows(count: int) -> list[dict[str, Any]]:
    """Rows of the toy, without what is not a feature."""
    return [{name: row[name] for name in NAMES} for row in toy_rows(count)]


def again(
    bundle: Path,
    lake: Lake,
    out: Path,
    *,
    recorded: Mapping[int, Contract] | None = None,
    version: int = 2,
    since: str = "",
    without_dropped: bool = False,
    rows_per_part: int = 1_000,
    report: Callable[..., None] = lambda *_: None,
) -> dict[str, Any]:
    """A replay by the version in `bundle`, from loading it on; recorded versions took what it takes unless said."""
    found = read_bundle(bundle)
    asked = begun(Replay(out, None, EVER, since, "", without_dropped, rows_per_part), "lake")
    contracts = {1: found.contract} if recorded is None else recorded
    with Scorer(found, ServingSettings(device="cpu")) as scorer:
        model = Model(found.contract.model, version, found.digest)
        return replay(asked, lake, scorer, model, contracts, where="lake", report=report)


def edited(bundle: Path, to: Path, change: Callable[[Column], Column | None]) -> Path:
    """The bundle with other columns in its contract; the graph stays as it is."""
    shutil.copytree(bundle, to)
    contract = changed(read_bundle(bundle).contract, change)
    (to / "contract.json").write_text(json.dumps(contract.to_dict()))
    seal(to)
    return to


def changed(contract: Contract, change: Callable[[Column], Column | None]) -> Contract:
    """The contract with other columns; what becomes None is left out."""
    columns = tuple(made for column in contract.columns if (made := change(column)) is not None)
    return replace(contract, columns=columns)
