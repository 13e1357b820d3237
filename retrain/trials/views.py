"""What a look at a trial reads from lake and ledger."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from monitoring.lake.lake import Lake
from registry.contract import Output
from registry.ledger import Ledger
from retrain.trials.bandit import contrast
from retrain.trials.policy import Baseline, Trial
from retrain.trials.samples import ab_stats, baseline, paired_losses
from retrain.trials.several import SeveralStats
from retrain.trials.several_samples import several_stats
from retrain.trials.stats import ShadowStats, Stats, WatchStats

__all__ = ["Views", "digest"]

#: How far back the champion's usual latency and answers are looked at.
USUAL = timedelta(days=7)


class _Memory(msgspec.Struct):
    """Paired differences in the order in which they were seen: a bet may not be placed again in another order."""

    ids: list[str] = []
    d: list[float] = []


@dataclass(frozen=True)
class Views:
    """Reads for one worker; the order of pairs is kept under the leader's token."""

    ledger: Ledger
    lake: Lake

    def stats(self, model: str, trial: Trial, output: Output, token: int) -> tuple[Stats | SeveralStats, pa.Table]:
        """What is known of the trial's present stage, and the rows that it comes from."""
        # by name: else a caller of many names could keep a guardrail's out of the columns
        named = [outcome.name for outcome in trial.policy.outcomes]
        joined = self.lake.joined(model, since=trial.started, outcomes=named)
        if trial.bandit:
            return several_stats(joined, trial, output), joined
        if trial.stage == "shadow":
            d = self._pairs(f"trial:{trial.experiment_id}", joined, trial, output, token)
            return ShadowStats(d), joined
        if trial.stage == "watch":
            return self._watch(joined, trial, output, token), joined
        return ab_stats(joined, trial, output), joined

    def _watch(self, joined: pa.Table, trial: Trial, output: Output, token: int) -> WatchStats:
        """Former champion less present one; and the trial's own strata, with the labels that came since."""
        name = f"watch:{trial.experiment_id}"
        d = -self._pairs(name, joined, trial, output, token, swapped=True)
        if trial.policy.several:
            epochs = [epoch.losses for epoch in several_stats(joined, trial, output).epochs]
            return WatchStats(d, contrast(epochs, champion=trial.champion, candidate=trial.candidate))
        return WatchStats(d, ab_stats(joined, trial, output).strata)

    def _pairs(
        self, name: str, joined: pa.Table, trial: Trial, output: Output, token: int, *, swapped: bool = False
    ) -> NDArray[np.float32]:
        body = self.ledger.load_state(name)
        memory = msgspec.json.decode(body, type=_Memory) if body else _Memory()
        answers, asked = (trial.candidate, trial.champion) if swapped else (trial.champion, trial.candidate)
        ids, d = paired_losses(joined, output=output, cap=trial.cap, champion=answers, candidate=asked)
        seen = set(memory.ids)
        fresh = [(i, float(x)) for i, x in zip(ids, d, strict=True) if i not in seen]
        if fresh:
            memory.ids += [i for i, _ in fresh]
            memory.d += [x for _, x in fresh]
            self.ledger.save_state(name, msgspec.json.encode(memory), token=token)
        return np.array(memory.d, dtype=np.float32)

    def baseline(self, model: str, trial: Trial, output: Output, now: datetime) -> Baseline:
        """What the champion has done of late, before the first request is drawn."""
        columns = ["_version", "_arm", "_latency_ms", "_prediction"]
        rows = self.lake.read(model, "prediction", since=min(trial.started, now) - USUAL, columns=columns)
        return baseline(rows, trial, output)


def digest(joined: pa.Table) -> dict[str, Any]:
    """Of what was answered and what came of it: the same rows give the same digest, whatever files hold them."""
    names = ("_id", "_version", "_assigned", "_label")
    body = json.dumps([joined.column(name).to_pylist() for name in names], separators=(",", ":"))
    return {"rows": joined.num_rows, "sha256": hashlib.sha256(body.encode()).hexdigest()}
