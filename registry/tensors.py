"""Rows as the tensors the graph takes, from a pandas frame (the server packs from JSON by itself)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from registry.contract import Contract

if TYPE_CHECKING:
    import pandas as pd


def pack_frame(contract: Contract, frame: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
    """Pack N rows with the contract's columns: `numbers` of its precision [N, F] and `strings` [N, S]."""
    tensors: dict[str, npt.NDArray[Any]] = {}
    if contract.numbers:
        columns = [frame[c.name].to_numpy(dtype=np.float64, na_value=np.nan) for c in contract.numbers]
        with np.errstate(over="ignore"):
            tensors["numbers"] = np.column_stack(columns).astype(contract.precision)
    if contract.strings:
        texts = [frame[c.name].astype(object).where(frame[c.name].notna(), "").to_numpy() for c in contract.strings]
        tensors["strings"] = np.column_stack(texts).astype(object)
    return tensors
