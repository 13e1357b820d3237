"""The parity certificate: does the served model answer as the estimator does, on real and adversarial rows?"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from registry.contract import Contract
from registry.errors import ConversionRefused
from registry.original import Answers, predict_original
from registry.tensors import pack_frame

Array = npt.NDArray[Any]
Verdict = Literal["exact", "close", "refused"]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Tensors of the contract in, outputs by name: an ONNX graph, or a native model in its process."""

EXACT: Final = 1e-5
"""Relative difference up to which answers count as the same (float32 sums of leaves differ in the last bits)."""
CLOSE_SHARE: Final = 0.001
"""Share of rows that may differ by more before the certificate refuses."""
MAX_ROWS: Final = 10_000
LARGEST: Final = 1e308
"""Stands for "not comparable" (NaN against a number): JSON has no infinity."""


def onnx_runner(model: bytes) -> Run:
    """Run the graph on the CPU, one thread.

    Raises:
        ConversionRefused: ONNX Runtime does not load it.
    """
    from registry.onnx_session import open_session

    try:
        session = open_session(model)
    # ONNX Runtime's exceptions share no public base class
    except Exception as error:
        raise ConversionRefused(
            "ONNX Runtime does not load the graph", where=type(error).__name__, hint="log the model again"
        ) from error
    names = [output.name for output in session.get_outputs()]

    def run(tensors: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return dict(zip(names, session.run(names, dict(tensors)), strict=True))
        # ONNX Runtime's exceptions share no public base class
        except Exception as error:
            raise ConversionRefused("ONNX Runtime does not run the graph", where=type(error).__name__) from error

    return run


def predict_onnx(model: bytes, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Run the graph once over all rows; outputs by name."""
    return onnx_runner(model)(tensors)


def answers(contract: Contract, outputs: Mapping[str, Array]) -> Answers:
    """The served model's outputs in the form of the original's answers.

    Raises:
        ConversionRefused: an output is missing, or a label is none of the classes.
    """
    try:
        if contract.output.kind == "regression":
            values = outputs["prediction"].astype(np.float64)
            return Answers(values.reshape(len(values), -1))
        values = outputs["scores" if contract.output.scores else "probabilities"].astype(np.float64)
        positions = {value: n for n, value in enumerate(contract.output.classes)}
        labels = np.fromiter((positions[v] for v in outputs["label"].ravel().tolist()), np.int64)
    except KeyError as error:
        raise ConversionRefused(
            "the converted model does not answer what the contract says", where=type(error).__name__
        ) from error
    return Answers(values.reshape(len(values), -1), labels)


def probabilities(contract: Contract, found: Answers) -> Array:
    """What losses are computed of: numbers [N, T], or probabilities [N, K] (1 for the chosen class without them)."""
    if found.labels is None or not contract.output.scores:
        return found.values
    return np.asarray(np.eye(len(contract.output.classes))[found.labels])


def certify(estimator: Any, run: Run, contract: Contract, frame: pd.DataFrame) -> dict[str, Any]:
    """Compare estimator and served model on up to 10,000 rows of `frame` and on adversarial ones made from it.

    Differences are relative to max(1, |answer|, standard deviation of the answers).
    `exact`: none above 1e-5. `close`: at most 0.1 % of the real rows, and no label of a real row changes.
    Otherwise `refused`.

    Raises:
        ConversionRefused: the served model does not run, or answers in another shape.
    """
    from registry.adversarial import adversarial_rows  # scikit-learn: whoever only runs a model need not import it

    real = frame.sample(MAX_ROWS, random_state=0) if len(frame) > MAX_ROWS else frame
    hard = adversarial_rows(estimator, contract, real)
    delta, flips = _compare(estimator, run, contract, real)
    hard_delta, hard_flips = _compare(estimator, run, contract, hard)
    share = float(np.mean(delta > EXACT))
    hard_share = float(np.mean(hard_delta > EXACT)) if len(hard) else 0.0
    single, batch = _latency(run, contract, real)
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
        "guilty_columns": _guilty(estimator, run, contract, real, delta) if share or flips else [],
        "single_row_us": single,
        "batch_row_us": batch,
    }


def placement(model: bytes) -> dict[str, Any]:
    """Operators of a graph with their counts, and those for which ONNX Runtime's CUDA provider has no kernel.

    That provider implements none of the ai.onnx.ml operators and nothing on text; they run on the CPU.
    """
    import onnx

    nodes = onnx.load_model_from_string(model).graph.node
    texts = {"StringNormalizer", "StringConcat", "StringSplit", "RegexFullMatch", "Tokenizer"}
    counts = Counter(node.op_type for node in nodes)
    cpu = {node.op_type for node in nodes if node.domain not in ("", "ai.onnx") or node.op_type in texts}
    return {"operators": dict(sorted(counts.items())), "without_cuda_kernel": sorted(cpu)}


def _compare(estimator: Any, run: Run, contract: Contract, frame: pd.DataFrame) -> tuple[Array, int]:
    """Relative difference of each row, and how many rows get another label."""
    if len(frame) == 0:
        return np.zeros(0), 0
    wanted = predict_original(estimator, contract, frame)
    got = answers(contract, run(pack_frame(contract, frame)))
    if got.values.shape != wanted.values.shape:
        raise ConversionRefused(
            "the converted model answers in another shape than the estimator",
            expected=str(wanted.values.shape[1:]),
            got=str(got.values.shape[1:]),
        )
    # an answer near zero is the sum of large leaves: float32 rounds it by what the answers' spread allows
    spread = float(np.std(wanted.values)) if len(wanted.values) > 1 else 0.0
    with np.errstate(invalid="ignore"):
        difference = np.abs(got.values - wanted.values) / np.maximum(max(1.0, spread), np.abs(wanted.values))
    difference[got.values == wanted.values] = 0.0  # equal infinities differ by NaN
    difference = np.nan_to_num(difference, nan=LARGEST, posinf=LARGEST).max(axis=1)
    if wanted.labels is None or got.labels is None:
        return difference, 0
    return difference, int(np.sum(got.labels != wanted.labels))


def _verdict(share: float, hard_share: float, flips: int) -> Verdict:
    if share == 0.0 and hard_share == 0.0 and flips == 0:
        return "exact"
    if share <= CLOSE_SHARE and hard_share <= 0.05 and flips == 0:
        return "close"
    return "refused"


def _guilty(estimator: Any, run: Run, contract: Contract, frame: pd.DataFrame, delta: Array) -> list[str]:
    """Columns that the precision cannot carry, then those whose replacement by one usual value makes rows agree."""
    bad = frame[delta > EXACT].head(200)
    if len(bad) == 0:
        return []
    helped = [(2.0, column.name) for column in contract.numbers if _loses_values(frame[column.name], contract)]
    for column in contract.columns:
        plain = frame[column.name].dropna().mode().iloc[0]
        changed = bad.assign(**{column.name: pd.Series(plain, index=bad.index).astype(frame[column.name].dtype)})
        left, _ = _compare(estimator, run, contract, changed)
        gain = float(np.mean(left <= EXACT))
        if gain > 0.2:
            helped.append((gain, column.name))
    return list(dict.fromkeys(name for _, name in sorted(helped, reverse=True)))[:5]


def _loses_values(values: pd.Series[Any], contract: Contract) -> bool:
    """Whether the contract's precision merges more than 1 % of the distinct values."""
    distinct = np.unique(values.dropna().to_numpy(dtype=np.float64))
    with np.errstate(over="ignore"):
        return len(np.unique(distinct.astype(contract.precision))) < 0.99 * len(distinct)


def _latency(run: Run, contract: Contract, frame: pd.DataFrame) -> tuple[float, float]:
    """Median single-row and per-row batch time in µs."""
    tensors = pack_frame(contract, frame.head(1_000))
    one = {name: tensor[:1] for name, tensor in tensors.items()}
    singles = [_timed(run, one) for _ in range(50)]
    batch = min(_timed(run, tensors) for _ in range(3))
    return float(np.median(singles) * 1e6), batch / len(frame.head(1_000)) * 1e6


def _timed(run: Run, tensors: Mapping[str, Array]) -> float:
    start = time.perf_counter()
    run(tensors)
    return time.perf_counter() - start
