"""Several windows and the former champions compete on one fresh holdout; the best one must then pass the gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from registry.bundle import Bundle
from registry.errors import TrainingFailed
from registry.loss import bounded_loss
from registry.original import predict_original
from registry.parity import answers, probabilities
from registry.run import opened_bundle
from registry.tensors import pack_frame
from retrain.settings import RetrainSettings

__all__ = ["Contender", "best", "bundle_losses", "checked_losses", "estimator_losses"]


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


def checked_losses(
    estimator: Any, champion: Bundle, holdout: pd.DataFrame, settings: RetrainSettings, cap: float
) -> NDArray[np.float64]:
    """Losses of what a user's trainer returned.

    Raises:
        TrainingFailed: it does not answer the holdout's rows as the champion does.
    """
    try:
        losses = estimator_losses(estimator, champion, holdout, settings.target, cap)
    except MemoryError:
        raise
    # it is the user's estimator: whatever it does with these rows, it cannot follow the champion
    except Exception as error:
        raise TrainingFailed(
            f"the fitted {type(estimator).__name__} does not answer the holdout: {type(error).__name__}",
            where=settings.trainer,
            expected="answers of the champion's kind for its columns",
        ) from error
    if losses.shape != (len(holdout),) or not np.isfinite(losses).any():
        raise TrainingFailed(
            f"the fitted {type(estimator).__name__} gives no usable answers", where=settings.trainer, expected="numbers"
        )
    return losses


def best(contenders: Mapping[str, Contender]) -> Contender:
    """The lowest mean loss, no answer being the worst; a former champion wins a tie, for it needs no new version."""
    return min(contenders.values(), key=lambda c: (float(np.nan_to_num(c.losses, nan=1.0).mean()), c.version is None))
