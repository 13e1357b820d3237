"""Golden rows: real inputs with the answers they must give, run again before a bundle may serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from registry.bundle import Bundle
from registry.contract import Contract
from registry.errors import BundleCorrupt
from registry.parity import answers, predict_onnx
from registry.tensors import pack_frame

EXPECTED = "_expected"
ROWS = 64
TOLERANCE = 1e-4
"""Relative; wider than the certificate's, since another machine may sum float32 in another order."""


def write_golden(contract: Contract, frame: pd.DataFrame, expected: npt.NDArray[Any], path: Path) -> None:
    """Keep up to 64 rows of `frame` with the graph's own answers `expected` ([N] or [N, K])."""
    positions = np.linspace(0, len(frame) - 1, min(ROWS, len(frame))).astype(int)
    golden = frame.iloc[positions][contract.names].reset_index(drop=True)
    golden[EXPECTED] = [row.tolist() if expected.ndim == 2 else float(row) for row in expected[positions]]
    golden.to_parquet(path, index=False)


def check_golden(bundle: Bundle) -> int:
    """Run the golden rows through the graph; returns how many.

    Raises:
        BundleCorrupt: an answer differs from what the bundle promises.
    """
    golden = pd.read_parquet(bundle.path / "golden.parquet")
    contract = bundle.contract
    got = answers(contract, predict_onnx(bundle.onnx_bytes(), pack_frame(contract, golden)))
    expected = np.asarray(golden[EXPECTED].tolist(), dtype=np.float64)
    if got.shape != expected.shape or not np.allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE):
        raise BundleCorrupt(
            "the golden rows give other answers than the bundle promises",
            where="golden.parquet",
            hint="log the model again; the old version keeps serving",
        )
    return len(golden)
