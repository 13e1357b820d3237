"""The form in which a model is served: the leanest whose certificate is exact, else the best that is not refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from registry.bundle import ONNX
from registry.contract import Contract, Precision
from registry.errors import ConversionRefused
from registry.export import to_onnx
from registry.export.lean import lean
from registry.parity import Run, certify, onnx_runner, placement
from registry.run import opened

Runtime = Literal["auto", "onnx", "native"]
Progress = Callable[[str, str], None]
"""Called with a step's name and what it found."""


@dataclass(frozen=True)
class Converted:
    """A model as it will be served: `data` is the bundle's `file`."""

    contract: Contract
    file: str
    data: bytes
    certificate: dict[str, Any]
    run: Run | None = None

    @contextmanager
    def opened(self, *, allow_pickle: bool = False) -> Iterator[Run]:
        """The model, ready to be asked; the session that was certified, where there still is one."""
        if self.run is not None:
            yield self.run
            return
        with opened(self.contract, self.file, self.data, allow_pickle=allow_pickle) as run:
            yield run


def convert(
    estimator: Any,
    contract: Contract,
    frame: pd.DataFrame,
    *,
    runtime: Runtime = "auto",
    allow_pickle: bool = False,
    progress: Progress = lambda step, found: None,
) -> Converted:
    """Convert and certify: ONNX in float32, ONNX in float64, then the original in a process of its own.

    Args:
        frame: real rows, with the columns of `contract`.
        runtime: `onnx` refuses instead of falling back to the original; `native` does not try ONNX.
        allow_pickle: whether a native model may be a pickle.

    Raises:
        ConversionRefused: no form answers as the estimator does; the message has the reason of the last ONNX one.
    """
    tried: list[dict[str, Any]] = []
    found: list[Converted] = []
    refusal: ConversionRefused | None = None
    ladder: tuple[Precision, ...] = ("float32", "float64") if contract.precision == "float32" else ("float64",)
    for precision in ladder if runtime != "native" else ():
        wanted = replace(contract, precision=precision)
        try:
            made = _onnx(estimator, wanted, frame, progress)
        except ConversionRefused as error:
            refusal = error
            tried.append({"runtime": "onnx", "precision": precision, "refused": error.message})
            progress("export", f"{precision}: {error.message}")
            continue
        tried.append(
            {"runtime": "onnx", "precision": precision}
            | {name: made.certificate[name] for name in ("verdict", "guilty_columns")}
        )
        if made.certificate["verdict"] == "exact":
            return _with_history(made, tried)
        found.append(made)
        if made.certificate["verdict"] == "refused":
            refusal = refused_by_parity(made.certificate)
    usable = [made for made in found if made.certificate["verdict"] == "close"]
    if usable:
        return _with_history(min(usable, key=lambda made: made.certificate["share_beyond"]), tried)
    if runtime == "onnx":
        raise refusal or ConversionRefused("there is no ONNX form of this model")
    try:
        made = _native(estimator, replace(contract, precision="float64"), frame, progress, allow_pickle=allow_pickle)
    except ConversionRefused as error:
        if refusal is None:
            raise
        # what keeps the model from ONNX is the user's first concern; why it is not native either comes after
        refusal.hint = f"{refusal.hint}; it cannot run natively either: {error}" if refusal.hint else str(error)
        raise refusal from error
    if made.certificate["verdict"] == "refused":
        raise refused_by_parity(made.certificate)
    tried.append({"runtime": "native", "precision": "float64", "verdict": made.certificate["verdict"]})
    return _with_history(made, tried)


def refused_by_parity(certificate: dict[str, Any]) -> ConversionRefused:
    """The error of a certificate whose verdict is `refused`."""
    guilty = certificate["guilty_columns"]
    return ConversionRefused(
        "the ONNX graph answers otherwise than the estimator, so it is not registered",
        where=f"columns {', '.join(guilty)}" if guilty else "the whole graph",
        expected="differences up to 1e-5 and no label flips",
        got=f"{certificate['share_beyond']:.2%} of real rows beyond, {certificate['label_flips']} label flips",
        hint="train on float32 columns, or pass runtime='native'",
    )


def _onnx(estimator: Any, contract: Contract, frame: pd.DataFrame, progress: Progress) -> Converted:
    graph = to_onnx(estimator, contract)
    leaner = lean(graph) if contract.precision == "float32" else None
    if leaner is not None:
        made = _certified(estimator, contract, frame, leaner, progress)
        if made.certificate["verdict"] == "exact":
            return made
    return _certified(estimator, contract, frame, graph, progress)


def _certified(estimator: Any, contract: Contract, frame: pd.DataFrame, graph: bytes, progress: Progress) -> Converted:
    progress("export", f"{len(graph) / 1024:.0f} KiB of ONNX, {contract.precision}")
    run = onnx_runner(graph)
    certificate = certify(estimator, run, contract, frame)
    certificate |= {"runtime": "onnx", "precision": contract.precision, "placement": placement(graph)}
    _tell(certificate, progress)
    return Converted(contract, ONNX, graph, certificate, run)


def _native(
    estimator: Any, contract: Contract, frame: pd.DataFrame, progress: Progress, *, allow_pickle: bool
) -> Converted:
    from registry.native.process import dump

    file, data = dump(estimator, allow_pickle=allow_pickle)
    progress("export", f"{len(data) / 1024:.0f} KiB of {file}, to run in a process of its own")
    with opened(contract, file, data, allow_pickle=allow_pickle) as run:
        certificate = certify(estimator, run, contract, frame)
    certificate |= {"runtime": "native", "precision": contract.precision}
    _tell(certificate, progress)
    return Converted(contract, file, data, certificate)


def _tell(certificate: dict[str, Any], progress: Progress) -> None:
    progress("certificate", f"{certificate['verdict']}, largest difference {certificate['max_difference']:.2g}")


def _with_history(made: Converted, tried: list[dict[str, Any]]) -> Converted:
    return replace(made, certificate={**made.certificate, "tried": tried})
