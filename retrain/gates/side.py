"""A version as the gates ask it: what it answers, how fast, and how large it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from registry.bundle import Bundle
from registry.contract import Contract
from registry.loss import bounded_loss
from registry.parity import answers, probabilities
from registry.run import opened_bundle
from registry.tensors import pack_frame

__all__ = ["Floats", "Side", "opened_side", "paired_losses"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two versions compared. `predict` gives numbers [N, T], or probabilities [N, K]."""

    contract: Contract
    predict: Callable[[pd.DataFrame], Floats]
    run: Callable[[Mapping[str, Any]], Any]
    size: int

    def losses(self, frame: pd.DataFrame, labels: NDArray[Any], cap: float) -> Floats:
        """Bounded loss of each row; NaN where answer or label is not usable."""
        return bounded_loss(self.contract.output, self.predict(frame), labels, cap)


@contextmanager
def opened_side(bundle: Bundle) -> Iterator[Side]:
    """A bundle's model, opened as it is served."""
    contract = bundle.contract
    with opened_bundle(bundle) as run:

        def predict(frame: pd.DataFrame) -> Floats:
            found = answers(contract, run(pack_frame(contract, frame)))
            return np.asarray(probabilities(contract, found), np.float64)

        yield Side(contract, predict, run, len(bundle.model_bytes()))


def paired_losses(champion: Floats, candidate: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Both losses with no answer counted as the worst one, and the rows whose label is usable at all.

    A version may not leave the hard rows out by answering NaN there.

    >>> found = paired_losses(np.array([0.1, np.nan, np.nan]), np.array([np.nan, 0.2, np.nan]))
    >>> found[0][found[2]].tolist(), found[1][found[2]].tolist()
    ([0.1, 1.0], [1.0, 0.2])
    """
    usable = np.isfinite(champion) | np.isfinite(candidate)
    return np.nan_to_num(champion, nan=1.0), np.nan_to_num(candidate, nan=1.0), usable
