"""A family converted, served from JSON bytes, and compared with its original."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from registry.contract import Contract
from registry.convert import Converted, convert
from registry.graphs.check import check_graph
from registry.infer import infer_contract
from registry.loss import class_index
from registry.original import Answers, predict_original
from registry.run import opened
from serving.decode import Decoder
from serving.engine import Answer, Engine, answer_names, read_answer
from tests.families.case import Case

ROWS = 60
"""Real rows that go through JSON."""
Ask = Callable[[bytes], Answer]


@dataclass(frozen=True, slots=True)
class Row:
    """What the table in `docs/models.md` says of a family."""

    runtime: str
    precision: str
    verdict: str
    difference: float = 0.0
    flips: int = 0
    served_us: float | None = None
    original_us: float | None = None


def converted(case: Case) -> tuple[Any, pd.DataFrame, Any, Converted]:
    """The fitted family, its rows and labels, and the form in which it would be served."""
    estimator, frame, labels = case.make()
    made = convert(estimator, infer_contract(estimator, frame, "family"), frame)
    return estimator, frame, labels, made


@contextmanager
def answering(made: Converted) -> Iterator[Ask]:
    """The server's decoder and engine (or the native process) over a converted model."""
    decoder = Decoder(made.contract, max_rows=10_000)
    if made.certificate["runtime"] == "onnx":
        check_graph(made.data, made.contract)
        engine = Engine(made.data, made.contract, device="cpu")
        yield lambda body: engine.run(decoder.decode(body).tensors)
        return
    names = answer_names(made.contract.output)
    with opened(made.contract, made.file, made.data) as run:

        def ask(body: bytes) -> Answer:
            outputs = run(decoder.decode(body).tensors)
            return read_answer(made.contract.output, [np.asarray(outputs[name]) for name in names])

        yield ask


def request(contract: Contract, frame: pd.DataFrame) -> bytes:
    """Rows of a frame as the body of a request."""
    rows = [
        {c.name: _plain(c.dtype, value) for c, value in zip(contract.columns, values, strict=True)}
        for values in frame[contract.names].itertuples(index=False, name=None)
    ]
    return json.dumps({"rows": rows}, allow_nan=False).encode()


def _plain(dtype: str, value: Any) -> Any:
    if pd.isna(value):
        return None
    return {"float": float, "int": int, "bool": bool, "string": str}[dtype](value)


def unlike(made: Converted, estimator: Any, frame: pd.DataFrame, answer: Answer) -> tuple[float, int]:
    """Largest relative difference between served and original answers, and how many labels differ."""
    wanted = predict_original(estimator, made.contract, frame)
    output = made.contract.output
    if output.kind == "regression":
        got = np.asarray(answer.predictions, np.float64).reshape(len(frame), -1)
        return _difference(got, wanted), 0
    served = np.asarray(answer.scores if output.scores else answer.values, np.float64)
    flips = int(np.sum(class_index(output, answer.predictions) != wanted.labels))
    return _difference(served, wanted), flips


def _difference(got: Any, wanted: Answers) -> float:
    spread = float(np.std(wanted.values))
    return float((np.abs(got - wanted.values) / np.maximum(max(1.0, spread), np.abs(wanted.values))).max())


def timed(made: Converted, estimator: Any, frame: pd.DataFrame, ask: Ask) -> tuple[float, float]:
    """µs of one row: decoded and answered by the server, and answered by the original from a frame."""
    one = frame.iloc[[0]]
    body = request(made.contract, one)
    output = made.contract.output
    probable = output.kind == "classification" and not output.scores and hasattr(estimator, "predict_proba")
    original = estimator.predict_proba if probable else getattr(estimator, "predict", None)
    if original is None or type(estimator).__module__.startswith(("onnx", "torch", "catboost", "xgboost.core")):
        return _median(lambda: ask(body), 200), _median(lambda: predict_original(estimator, made.contract, one), 20)
    return _median(lambda: ask(body), 200), _median(lambda: original(one), 20)


def _median(work: Callable[[], Any], times: int) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken) * 1e6)
