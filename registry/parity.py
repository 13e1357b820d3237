"""The parity certificate: does the ONNX graph answer as the estimator does, on real and adversarial rows?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from registry.contract import Contract
from registry.errors import ConversionRefused
from registry.export import parts
from registry.tensors import pack_frame

Array = npt.NDArray[Any]
Verdict = Literal["exact", "close", "refused"]

EXACT = 1e-5
"""Relative difference up to which answers count as the same (float32 sums of leaves differ in the last bits)."""
CLOSE_SHARE = 0.001
"""Share of rows that may differ by more before the certificate refuses."""
MAX_ROWS = 10_000
UNSEEN = "~never seen in training~"
LARGEST = 1e308
"""Stands for "not comparable" (NaN against a number): JSON has no infinity."""


def predict_onnx(model: bytes, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Run the graph once over all rows on the CPU; outputs by name."""
    session = _session(model)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(tensors)), strict=True))


def predict_original(estimator: Any, contract: Contract, frame: pd.DataFrame) -> Array:
    """The estimator's own answer: float64 [N] for regression, probabilities [N, K] for classification."""
    if contract.output.kind == "regression":
        return np.asarray(estimator.predict(frame), dtype=np.float64).reshape(len(frame), -1)[:, 0]
    return np.asarray(estimator.predict_proba(frame), dtype=np.float64)


def answers(contract: Contract, outputs: Mapping[str, Array]) -> Array:
    """The graph's outputs in the form of `predict_original`."""
    if contract.output.kind == "regression":
        return outputs["prediction"].astype(np.float64).reshape(-1)
    return outputs["probabilities"].astype(np.float64)


def certify(estimator: Any, model: bytes, contract: Contract, frame: pd.DataFrame) -> dict[str, Any]:
    """Compare estimator and graph on up to 10,000 rows of `frame` and on adversarial ones made from it.

    Differences are relative to max(1, |answer|, standard deviation of the answers).
    `exact`: none above 1e-5. `close`: at most 0.1 % of the real
    rows, and no label of a real row changes. Otherwise `refused`.

    Raises:
        ConversionRefused: ONNX Runtime does not load or run the graph.
    """
    real = frame.sample(MAX_ROWS, random_state=0) if len(frame) > MAX_ROWS else frame
    hard = adversarial_rows(estimator, contract, real)
    delta, flips = _compare(estimator, model, contract, real)
    hard_delta, hard_flips = _compare(estimator, model, contract, hard)
    share = float(np.mean(delta > EXACT))
    hard_share = float(np.mean(hard_delta > EXACT)) if len(hard) else 0.0
    single, batch = _latency(model, contract, real)
    return {
        "verdict": _verdict(share, hard_share, flips),
        "rows": len(real),
        "adversarial_rows": len(hard),
        "max_difference": float(delta.max()),
        "adversarial_max_difference": float(hard_delta.max()) if len(hard) else 0.0,
        "share_beyond": share,
        "adversarial_share_beyond": hard_share,
        "label_flips": flips,
        "adversarial_label_flips": hard_flips,
        "guilty_columns": _guilty(estimator, model, contract, real, delta) if share or flips else [],
        "single_row_us": single,
        "batch_row_us": batch,
    }


def adversarial_rows(estimator: Any, contract: Contract, frame: pd.DataFrame) -> pd.DataFrame:
    """Rows at tree thresholds ± 1 ulp of float32, nulls where allowed, unseen categories, and extremes."""
    base = frame.iloc[[0]]
    made: list[pd.DataFrame] = []
    for column in contract.columns:
        values: list[Any] = []
        if column.nullable:
            values.append(None if column.dtype == "string" else np.nan)
        if column.dtype == "string":
            values += [UNSEEN] if _accepts_unseen(estimator, base, column.name) else []
        elif column.dtype == "float" and column.minimum is not None and column.maximum is not None:
            # a float32 column is what is served, so its neighbours are float32 neighbours
            points = [column.minimum, column.maximum, *_quantiles(frame[column.name])]
            for edge in np.asarray(points, dtype=np.float32):
                values += [float(np.nextafter(edge, np.float32(s))) for s in (-np.inf, np.inf)] + [float(edge)]
        for value in values:
            row = base.copy()
            row[column.name] = pd.Series([value], index=row.index, dtype=frame[column.name].dtype)
            made.append(row)
    made.append(_threshold_rows(estimator, contract, frame))
    return pd.concat(made, ignore_index=True).astype(frame.dtypes.to_dict())


def _accepts_unseen(estimator: Any, row: pd.DataFrame, name: str) -> bool:
    """Whether the estimator answers a category that it was not fitted on; the graph always does."""
    try:
        estimator.predict(row.assign(**{name: pd.Series([UNSEEN], index=row.index, dtype=row[name].dtype)}))
    except ValueError:
        return False
    return True


def _threshold_rows(estimator: Any, contract: Contract, frame: pd.DataFrame, most: int = 2_000) -> pd.DataFrame:
    """Real rows with one number moved onto a threshold of a tree, or to its float32 neighbour."""
    thresholds: list[Array] = []
    for part in parts(estimator):
        if hasattr(part, "_predictors"):
            thresholds += [p.nodes["num_threshold"] for group in part._predictors for p in group]
        elif hasattr(part, "tree_"):
            thresholds.append(part.tree_.threshold[part.tree_.children_left != -1])
    floats = [c for c in contract.columns if c.dtype == "float" and c.minimum is not None]
    if not thresholds or not floats:
        return frame.iloc[:0]
    generator = np.random.default_rng(0)
    values = np.unique(np.concatenate(thresholds).astype(np.float32))
    values = generator.permutation(values[np.isfinite(values)])[: most // 3]
    points = np.concatenate(
        [values, np.nextafter(values, np.float32(np.inf)), np.nextafter(values, np.float32(-np.inf))]
    )
    rows = frame.iloc[generator.integers(0, len(frame), len(points))].reset_index(drop=True)
    for column in floats:
        low, high = float(column.minimum or 0.0), float(column.maximum or 0.0)
        inside = (points >= low) & (points <= high) & (generator.random(len(points)) < 0.5)
        moved = rows[column.name].to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
        moved[inside] = points[inside]
        rows[column.name] = pd.Series(moved, index=rows.index).astype(frame[column.name].dtype)
    return rows


def _quantiles(values: pd.Series[Any]) -> Array:
    return np.asarray(np.quantile(values.dropna().to_numpy(dtype=np.float64), [0.1, 0.5, 0.9]))


def _compare(estimator: Any, model: bytes, contract: Contract, frame: pd.DataFrame) -> tuple[Array, int]:
    if len(frame) == 0:
        return np.zeros(0), 0
    wanted = predict_original(estimator, contract, frame)
    got = answers(contract, predict_onnx(model, pack_frame(contract, frame)))
    if got.shape != wanted.shape:
        raise ConversionRefused(
            "the graph answers in another shape than the estimator",
            expected=str(wanted.shape[1:]),
            got=str(got.shape[1:]),
        )
    # an answer near zero is the sum of large leaves: float32 rounds it by what the answers' spread allows
    spread = float(np.std(wanted)) if len(wanted) > 1 else 0.0
    difference = np.abs(got - wanted) / np.maximum(max(1.0, spread), np.abs(wanted))
    difference = np.nan_to_num(difference, nan=LARGEST, posinf=LARGEST)
    if contract.output.kind == "regression":
        return difference, 0
    return difference.max(axis=1), int(np.sum(got.argmax(axis=1) != wanted.argmax(axis=1)))


def _verdict(share: float, hard_share: float, flips: int) -> Verdict:
    if share == 0.0 and hard_share == 0.0 and flips == 0:
        return "exact"
    if share <= CLOSE_SHARE and hard_share <= 0.05 and flips == 0:
        return "close"
    return "refused"


def _guilty(estimator: Any, model: bytes, contract: Contract, frame: pd.DataFrame, delta: Array) -> list[str]:
    """Columns that float32 cannot carry, then those whose replacement by one ordinary value makes rows agree."""
    bad = frame[delta > EXACT].head(200)
    if len(bad) == 0:
        return []
    helped = [(2.0, column.name) for column in contract.numbers if _loses_values(frame[column.name])]
    for column in contract.columns:
        plain = frame[column.name].dropna().mode().iloc[0]
        changed = bad.assign(**{column.name: pd.Series(plain, index=bad.index).astype(frame[column.name].dtype)})
        left, _ = _compare(estimator, model, contract, changed)
        gain = float(np.mean(left <= EXACT))
        if gain > 0.2:
            helped.append((gain, column.name))
    return list(dict.fromkeys(name for _, name in sorted(helped, reverse=True)))[:5]


def _loses_values(values: pd.Series[Any]) -> bool:
    """Whether float32 merges more than 1 % of the distinct values."""
    distinct = np.unique(values.dropna().to_numpy(dtype=np.float64))
    with np.errstate(over="ignore"):
        return len(np.unique(distinct.astype(np.float32))) < 0.99 * len(distinct)


def _latency(model: bytes, contract: Contract, frame: pd.DataFrame) -> tuple[float, float]:
    """Median single-row and per-row batch time in µs."""
    session = _session(model)
    tensors = pack_frame(contract, frame.head(1_000))
    one = {name: tensor[:1] for name, tensor in tensors.items()}
    singles = [_timed(session, one) for _ in range(50)]
    batch = min(_timed(session, tensors) for _ in range(3))
    return float(np.median(singles) * 1e6), batch / len(frame.head(1_000)) * 1e6


def _timed(session: Any, tensors: Mapping[str, Array]) -> float:
    start = time.perf_counter()
    session.run(None, dict(tensors))
    return time.perf_counter() - start


def _session(model: bytes) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    # ONNX Runtime's exceptions share no public base class
    except Exception as error:
        raise ConversionRefused(
            "ONNX Runtime does not load the graph", where=type(error).__name__, hint="log the model again"
        ) from error
