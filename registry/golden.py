"""Golden rows: real inputs with the answers they must give, run again before a bundle may serve."""

from __future__ import annotations

from pathlib import Path
import numpy as np
import pandas as pd

from registry.bundle import Bundle
from registry.contract import Contract
from registry.errors import BundleCorrupt
from registry.parity import Answers, answers
from registry.run import opened_bundle
from registry.tensors import pack_frame

EXPECTED = "_expected"
CHOSEN = "_chosen"
"""Position of the expected class; not in bundles of format 1."""
ROWS = 64
TOLERANCE = 1e-4
"""Relative; wider than the certificate's, since another machine may sum float32 in another order."""


def write_golden(contract: Contract, frame: pd.DataFrame, expected: Answers, path: Path) -> None:
    """Keep up to 64 rows of `frame` with the served model's own answers `expected`."""
    positions = np.linspace(0, len(frame) - 1, min(ROWS, len(frame))).astype(int)
    golden = frame.iloc[positions][contract.names].reset_index(drop=True)
    golden[EXPECTED] = expected.values[positions].tolist()
    if expected.labels is not None:
        golden[CHOSEN] = expected.labels[positions]
    golden.to_parquet(path, index=False)


def check_golden(bundle: Bundle, *, allow_pickle: bool = False) -> int:
    """Run the golden rows through the model; returns how many.

    Raises:
        BundleCorrupt: an answer differs from what the bundle promises.
    """
    golden = pd.read_parquet(bundle.path / "golden.parquet")
    contract = bundle.contract
    with opened_bundle(bundle, allow_pickle=allow_pickle) as run:
        got = answers(contract, run(pack_frame(contract, golden)))
    expected = np.asarray(golden[EXPECTED].tolist(), dtype=np.float64).reshape(len(golden), -1)
    same = got.values.shape == expected.shape and np.allclose(got.values, expected, rtol=TOLERANCE, atol=TOLERANCE)
    if CHOSEN in golden and same:
        same = got.labels is not None and bool(np.array_equal(got.labels, golden[CHOSEN].to_numpy()))
    if not same:
        raise BundleCorrupt(
            "the golden rows give other answers than the bundle promises",
            where="golden.parquet",
            hint="log the model again; the old version keeps serving",
        )
    return len(golden)
