"""An Evidently report beside each confirmed finding: written by a child, one at a time, never waited for."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from monitoring.lake import Key, Lake
from registry.contract import Contract
from registry.errors import StoreUnavailable
from retrain.places import Places
from retrain.process import Child

__all__ = ["Reports"]

ROWS = 5_000
SECONDS = 300.0


@dataclass
class Reports:
    """A short queue of reports to write."""

    places: Places
    lake: Lake
    _queue: deque[tuple[str, int, Contract]] = field(default_factory=lambda: deque(maxlen=8), init=False)
    _child: Child | None = field(default=None, init=False)

    def ask(self, model: str, evidence_id: int, contract: Contract) -> None:
        """Queue a report on the finding `evidence_id`; the oldest gives way when the queue is full."""
        self._queue.append((model, evidence_id, contract))

    def tend(self, *, quiet: bool) -> None:
        """Start the next report when the former is done and nothing more urgent needs the cores."""
        if self._child is not None and self._child.poll() is None:
            return
        self._child = None
        if not self._queue or not quiet:
            return
        model, evidence_id, contract = self._queue.popleft()
        folder = self.places.report(model, evidence_id)
        try:
            if not self._prepare(model, contract, folder):
                return
        except StoreUnavailable:  # upkeep took a file from under us, or the store is away: the next tick lists again
            self._queue.append((model, evidence_id, contract))
            return
        arguments = [
            f"--{n}={folder / f}" for n, f in (("reference", "reference.parquet"), ("current", "current.parquet"))
        ]
        arguments += [f"--contract={folder / 'contract.json'}", f"--to={folder}"]
        self._child = Child.start(["monitoring.evidently_report", *arguments], log=folder / "log.txt", seconds=SECONDS)

    def _prepare(self, model: str, contract: Contract, folder: Path) -> bool:
        """The model's first served rows against its latest: what changed since it went live."""
        files = self.lake.files(model, "prediction")
        names = [c.name for c in contract.columns if c.policy == "store"]
        first, last = self._rows(model, files, names), self._rows(model, files[::-1], names)
        if first.num_rows < ROWS // 10 or len(files) < 2:
            return False
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(first, folder / "reference.parquet")
        pq.write_table(last, folder / "current.parquet")
        scratch = folder / f"contract.{os.getpid()}"
        scratch.write_text(json.dumps(contract.to_dict()))
        os.replace(scratch, folder / "contract.json")
        return True

    def _rows(self, model: str, files: Sequence[Key], names: list[str]) -> pa.Table:
        tables: list[pa.Table] = []
        for file in files[:200]:
            tables.append(self.lake.read(model, "prediction", files=[file]).select(names))
            if sum(t.num_rows for t in tables) >= ROWS:
                break
        return pa.concat_tables(tables, promote_options="permissive").slice(0, ROWS) if tables else pa.table({})

    def stop(self) -> None:
        """Kill a report on its way."""
        if self._child is not None:
            self._child.stop()
