"""Several windows and the former champions compete on one fresh holdout; the best one must then pass the gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from registry.bundle import Bundle
from registry.loss import bounded_loss
from registry.original import predict_original
from registry.parity import answers, probabilities
from registry.run import opened_bundle
from registry.tensors import pack_frame

__all__ = ["Contender", "best", "bundle_losses", "estimator_losses"]


@dataclass(frozen=True, eq=False)
class Contender:
    """One candidate and its holdout losses. A former champion has a version and no estimator."""

    name: str
    losses: NDArray[np.float64]
    rows: int = 0
    estimator: Any = None
    version: int | None = None
    train: pd.DataFrame | None = None

    def line(self, champion: NDArray[np.float64]) -> dict[str, Any]:
        """What the record keeps of it."""
        ok = np.isfinite(champion) & np.isfinite(self.losses)
        return {
            "name": self.name,
            "version": self.version,
            "rows": self.rows,
            "loss": float(self.losses[ok].mean()),
            "effect": float((champion[ok] - self.losses[ok]).mean()),
        }


def bundle_losses(bundle: Bundle, holdout: pd.DataFrame, target: str, cap: float) -> NDArray[np.float64]:
    """Losses of a version as it is served."""
    with opened_bundle(bundle) as run:
        found = answers(bundle.contract, run(pack_frame(bundle.contract, holdout)))
    labels = holdout[target].to_numpy()
    return bounded_loss(bundle.contract.output, probabilities(bundle.contract, found), labels, cap)


def estimator_losses(
    estimator: Any, champion: Bundle, holdout: pd.DataFrame, target: str, cap: float
) -> NDArray[np.float64]:
    """Losses of a fresh estimator, before the best one is worth a conversion."""
    found = predict_original(estimator, champion.contract, holdout[champion.contract.names])
    predicted = probabilities(champion.contract, found)
    return bounded_loss(champion.contract.output, predicted, holdout[target].to_numpy(), cap)


def best(contenders: Mapping[str, Contender]) -> Contender:
    """The lowest mean loss; a former champion wins a tie, for it needs no new version."""
    return min(contenders.values(), key=lambda c: (float(np.nanmean(c.losses)), c.version is None))
