"""Golden rows: real inputs with the answers they must give, run again before a bundle may serve."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from registry.bundle import Bundle
from registry.contract import Contract
from registry.errors import BundleCorrupt
from registry.original import Answers
from registry.parity import answers
from registry.run import opened_bundle
from registry.tensors import pack_frame

EXPECTED = "_expected"
CHOSEN = "_chosen"
"""Position of the expected class; not in bundles of format 1."""
ROWS = 64
MANY: Final = 1_000
MAX_ROWS: Final = 10_000
MAX_BYTES: Final = 64 * 1024 * 1024
TOLERANCE = 1e-4
"""Relative; wider than the certificate's, since another machine may sum float32 in another order."""


def golden_rows(contract: Contract, frame: pd.DataFrame) -> pd.DataFrame:
    """Up to 64 rows of `frame`, spread over all of it."""
    positions = np.linspace(0, len(frame) - 1, min(ROWS, len(frame))).astype(int)
    return frame.iloc[positions][contract.names].reset_index(drop=True)


def write_golden(rows: pd.DataFrame, expected: Answers, path: Path) -> None:
    """Keep the golden `rows` with the served model's own answers to them."""
    golden = rows.copy()
    golden[EXPECTED] = expected.values.tolist()
    if expected.labels is not None:
        golden[CHOSEN] = expected.labels
    golden.to_parquet(path, index=False)


def read_golden(path: Path, contract: Contract) -> pd.DataFrame:
    """The golden rows of a bundle that nobody trusts yet: real rows of its contract, with finite answers.

    Raises:
        BundleCorrupt: the file is not readable, or its rows are not such.
    """
    import pyarrow
    import pyarrow.parquet

    if path.stat().st_size > MAX_BYTES:
        raise _corrupt(f"they are larger than {MAX_BYTES} bytes")
    try:
        # in this thread: a process with limits may not be allowed another
        file = pyarrow.parquet.ParquetFile(path, pre_buffer=False)
        rows = file.metadata.num_rows
        if not 0 < rows <= MAX_ROWS:
            raise _corrupt(f"there are not 1 to {MAX_ROWS} of them")
        names = set(file.schema_arrow.names)
        if len(file.schema_arrow.names) != len(names) or names - {CHOSEN} != {*contract.names, EXPECTED}:
            raise _corrupt("their columns are not the contract's")
        golden: pd.DataFrame = file.read(use_threads=False).to_pandas(use_threads=False)
        expected = np.asarray(golden[EXPECTED].tolist(), dtype=np.float64)
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, LookupError, OverflowError) as error:
        raise _corrupt("they cannot be read") from error
    if len(golden) != rows or not np.isfinite(expected).all():
        raise _corrupt("they promise answers that are not finite numbers")
    return golden


def check_golden(bundle: Bundle, *, allow_pickle: bool = False) -> int:
    """Run the golden rows through the model; returns how many.

    Raises:
        BundleCorrupt: an answer differs from what the bundle promises.
    """
    contract = bundle.contract
    golden = read_golden(bundle.path / "golden.parquet", contract)
    with opened_bundle(bundle, allow_pickle=allow_pickle) as run:
        got = answers(contract, run(pack_frame(contract, golden)))
        if not bundle.native:
            # what grows faster than its rows shows in a request of many, not in 64
            many = golden.iloc[np.arange(MANY) % len(golden)]
            answers(contract, run(pack_frame(contract, many)))
    output = contract.output
    width = len(output.scores or output.classes) if output.kind == "classification" else max(1, len(output.targets))
    expected = np.asarray(golden[EXPECTED].tolist(), dtype=np.float64).reshape(len(golden), -1)
    if got.values.shape != (len(golden), width):
        raise _corrupt("the model answers them in another shape than the contract says")
    if not np.isfinite(got.values).all():
        raise _corrupt("the model answers them with NaN or infinity")
    same = expected.shape == got.values.shape and np.allclose(got.values, expected, rtol=TOLERANCE, atol=TOLERANCE)
    if CHOSEN in golden and same:
        same = got.labels is not None and bool(np.array_equal(got.labels, golden[CHOSEN].to_numpy()))
    if not same:
        raise BundleCorrupt(
            "the golden rows give other answers than the bundle promises",
            where="golden.parquet",
            hint="log the model again; the old version keeps serving",
        )
    return len(golden)


def _corrupt(reason: str) -> BundleCorrupt:
    return BundleCorrupt(
        f"the golden rows are refused: {reason}", where="golden.parquet", hint="the old version keeps serving"
    )
