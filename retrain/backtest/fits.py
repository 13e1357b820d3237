"""Fitted versions and what their answers cost: each window is fitted once, however many policies ask for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from registry.contract import Contract
from registry.infer import infer_contract
from registry.loss import bounded_loss
from registry.original import predict_original
from registry.parity import probabilities
from retrain.backtest.history import History, Rows
from retrain.gates.leakage import concordance
from retrain.gates.side import Side
from retrain.settings import RetrainSettings
from retrain.training.data import nulls_allowed
from retrain.training.windows import NamedWindow

__all__ = ["Fit", "Fits", "Judge", "Trainer", "cap_of"]

Trainer = Callable[[pd.DataFrame], Any]
Floats = npt.NDArray[np.float64]
BLOCK: Final = 8_192
"""Rows that are answered at once: what a version answers beyond the rows it serves is little."""
_SEEN: Final = 20_000
"""Rows that a contract is read off."""


@dataclass(eq=False)
class Fit:
    """One version: where it comes from, and its losses and errors on the blocks of rows that were asked for."""

    window: NamedWindow
    rows: int
    contract: Contract
    estimator: Any
    quality: dict[str, float] | None = None
    """Count, mean and spread of its losses on the holdout it was accepted on, as its reference keeps them."""
    order: float | None = None
    """How well it ordered that holdout: the AUC of two classes."""
    blocks: dict[int, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Judge:
    """Losses of versions, bounded to 0..1 as everywhere, and errors in the label's own unit.

    The cap is the first version's, as in production, where a successor inherits it.
    """

    history: History
    cap: float

    def losses(self, fit: Fit, rows: Rows, now: datetime | None) -> Floats:
        """Bounded losses on rows whose labels are known at `now`."""
        return self._of(fit, rows, now, 0)

    def errors(self, fit: Fit, rows: Rows, now: datetime | None) -> Floats:
        """Absolute errors of a regression; of a classification the same as the losses."""
        return self._of(fit, rows, now, 1)

    def accept(self, fit: Fit, rows: Rows, now: datetime) -> None:
        """Keep what the reference of a bundle accepted on these rows would say; the first acceptance stands."""
        if fit.quality is not None:
            return
        fit.quality = self._quality(fit, rows, now)
        output = fit.contract.output
        if output.kind == "classification" and len(output.classes) == 2:
            answers = self.side(fit).predict(self.history.features.iloc[rows])
            fit.order = concordance(output, answers, self.history.truth(rows, now))

    def _quality(self, fit: Fit, rows: Rows, now: datetime) -> dict[str, float]:
        losses = self.losses(fit, rows, now)
        losses = losses[np.isfinite(losses)]
        spread = float(losses.std(ddof=1)) if len(losses) > 1 else 0.0
        return {"n": len(losses), "loss": float(losses.mean()) if len(losses) else 0.0, "loss_sd": spread}

    def side(self, fit: Fit) -> Side:
        """The version as the gates ask it."""

        def predict(frame: pd.DataFrame) -> Floats:
            found = predict_original(fit.estimator, fit.contract, frame)
            return np.asarray(probabilities(fit.contract, found), np.float64)

        return Side(fit.contract, predict, _no_graph, 0)

    def _of(self, fit: Fit, rows: Rows, now: datetime | None, which: int) -> Floats:
        self.history.truth(rows, now)  # refuses what is not known yet
        found = np.empty(len(rows), np.float64)
        block = rows // BLOCK
        for number in np.unique(block):
            here = block == number
            found[here] = self._block(fit, int(number))[which][rows[here] - number * BLOCK]
        return found

    def _block(self, fit: Fit, number: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        if number not in fit.blocks:
            part = slice(number * BLOCK, (number + 1) * BLOCK)
            answers = predict_original(fit.estimator, fit.contract, self.history.features.iloc[part])
            predicted = probabilities(fit.contract, answers)
            labels = self.history.labels[part]
            losses = bounded_loss(fit.contract.output, predicted, labels, self.cap)
            if fit.contract.output.kind == "regression":
                errors = np.abs(predicted[:, 0] - np.asarray(labels, np.float64))
            else:  # a class that the version has never seen is as wrong as can be
                errors = np.where(np.isnan(losses), 1.0, losses)
            fit.blocks[number] = (losses.astype(np.float32), errors.astype(np.float32))
        return fit.blocks[number]


@dataclass(eq=False)
class Fits:
    """Fits what was not fitted yet; `forget` drops what no policy holds any more."""

    history: History
    settings: RetrainSettings
    train: Trainer
    model: str
    seed: int = 0
    made: int = 0
    contract: Contract | None = None
    """The first version's: callers rely on it."""
    _kept: dict[tuple[int, int, int], Fit] = field(default_factory=dict)

    def fit(self, window: NamedWindow, now: datetime) -> Fit | None:
        """A version of the rows of `window` whose labels are known at `now`; None when they are too few.

        What the trainer raises goes through.
        """
        rows = self.history.learnable(window.window, now)
        if len(rows) < self.settings.min_labels:
            return None
        key = (int(rows[0]), int(rows[-1]), len(rows))  # of rows, not of times: 90 days may be all there is
        if key not in self._kept:
            self._kept[key] = self._fit(window, rows, now)
        return self._kept[key]

    def forget(self, held: Collection[Fit]) -> None:
        """Keep the versions that somebody holds, and no others: memory does not grow with the span."""
        keep = {id(fit) for fit in held}
        self._kept = {key: fit for key, fit in self._kept.items() if id(fit) in keep}

    def _fit(self, window: NamedWindow, rows: Rows, now: datetime) -> Fit:
        if len(rows) > self.settings.max_rows:
            drawn = np.random.default_rng(self.seed).choice(len(rows), self.settings.max_rows, replace=False)
            rows = rows[np.sort(drawn)]
        frame = self.history.frame(rows, now)
        estimator = self.train(frame)
        self.made += 1
        features = frame.drop(columns=self.history.target).tail(_SEEN).reset_index(drop=True)
        if self.contract is not None:
            features = nulls_allowed(self.contract, features)
        contract = infer_contract(estimator, features, self.model)
        self.contract = self.contract or contract
        return Fit(window, len(rows), contract, estimator)


def _no_graph(_: Mapping[str, Any]) -> Any:
    raise NotImplementedError("a backtest makes no graphs")


def cap_of(errors: Floats) -> float:
    """The loss cap of a first version, as `registry.log` sets it: four times its mean absolute error."""
    mean = float(np.nanmean(errors)) if len(errors) else math.nan
    return 4.0 * max(mean, 1e-9)
