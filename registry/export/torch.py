"""A small PyTorch module over the numbers of a row [N, F], in float32, by way of `torch.onnx`.

It predicts numbers [N, T], T being the width of its answer (attribute `targets`, 1 without it); or, with an attribute
`classes_`, logits of these classes [N, K], or one logit [N, 1] of the second of two.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import pandas as pd
import torch

from registry.contract import Contract, Output
from registry.errors import ConversionRefused
from registry.export import export
from registry.export.builder import Builder, Value
from registry.export.sklearn import export_steps
from registry.export.steps import Classes, classify, regress
from registry.export.table import Table
from registry.original import Answers, class_values, output, predict


@output.register
def _(estimator: torch.nn.Module) -> Output:
    if hasattr(estimator, "classes_"):
        return Output("classification", class_values(estimator.classes_))
    count = int(getattr(estimator, "targets", 1))
    return Output("regression", targets=tuple(f"target_{n}" for n in range(count)) if count > 1 else ())


@predict.register
def _(estimator: torch.nn.Module, contract: Contract, frame: pd.DataFrame) -> Answers:
    columns = [frame[name].to_numpy(np.float64, na_value=np.nan) for name in contract.names]
    with _evaluating(estimator), torch.no_grad():
        found = estimator(torch.from_numpy(np.column_stack(columns).astype(np.float32))).double()
        found = found.reshape(len(frame), -1)
        if contract.output.kind == "regression":
            return Answers(found.numpy())
        if found.shape[1] == 1:
            found = torch.cat([torch.zeros_like(found), found], dim=1)
        return Answers(torch.softmax(found, dim=1).numpy(), found.argmax(dim=1).numpy())


@regress.register
def _(step: torch.nn.Module, g: Builder, table: Table) -> Value:
    return _raw(step, g, table)[0]


@classify.register
def _(step: torch.nn.Module, g: Builder, table: Table) -> Classes:
    logits, width = _raw(step, g, table)
    if width == 1:
        logits = g.concat([g.op("Mul", logits, g.constant(0.0)), logits])
    return Classes(g.argmax(logits), g.op("Softmax", logits, axis=1), logits)


export.register(torch.nn.Module, export_steps)


def _raw(step: torch.nn.Module, g: Builder, table: Table) -> tuple[Value, int]:
    """What the module answers [N, width], in double."""
    rows = g.cast(table.numbers(g, step), "float")
    model = _exported(step, len(table.fields))
    (answer,) = g.inline(model, {"rows": rows}).values()
    dimensions = model.graph.output[0].type.tensor_type.shape.dim
    width = int(dimensions[1].dim_value) if len(dimensions) == 2 else 1
    return g.reshape(g.cast(answer, "double"), [-1, width]), width


def _exported(estimator: torch.nn.Module, columns: int) -> onnx.ModelProto:
    """The module's graph, of any number of rows."""
    sample = torch.zeros(3, columns)
    try:
        with _quiet(), _evaluating(estimator):
            program = torch.onnx.export(
                estimator,
                (sample,),
                dynamo=True,
                verbose=False,
                opset_version=18,
                input_names=["rows"],
                output_names=["answer"],
                dynamic_shapes=({0: torch.export.Dim("count")},),
            )
        model: onnx.ModelProto = program.model_proto if program is not None else onnx.ModelProto()
    # the exporter raises what it likes: all mean that the module has no graph
    except Exception as error:
        raise ConversionRefused(
            f"PyTorch does not export the {type(estimator).__name__}: {type(error).__name__}",
            expected=f"a module that takes float32 [N, {columns}] and has no branches on values",
            hint="it needs the package onnxscript; the chain from this error has the exporter's message",
        ) from error
    if model.functions or len(model.graph.output) != 1:
        raise ConversionRefused(f"the {type(estimator).__name__} does not answer one tensor", hint="return one [N, T]")
    return model


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """The module as it is when it serves: no dropout, no running statistics; and back."""
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on packages that nobody asked for."""
    logger: Any = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
