"""Multi-layer perceptrons."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from registry.export.builder import Builder, Value
from registry.export.steps import Classes, classify, refused, regress
from registry.export.steps.linear import both
from registry.export.table import Table

_ACTIVATIONS = {"logistic": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "exp": "Exp"}


def _forward(step: Any, g: Builder, x: Value) -> Value:
    for n, (weights, shift) in enumerate(zip(step.coefs_, step.intercepts_, strict=True)):
        last = n == len(step.coefs_) - 1
        x = _activated(step, g, g.layer(x, weights, shift), step.out_activation_ if last else step.activation)
    return x


def _activated(step: Any, g: Builder, x: Value, name: str) -> Value:
    if name == "identity":
        return x
    if name == "softmax":
        return g.op("Softmax", x, axis=1)
    if name not in _ACTIVATIONS:
        raise refused(step, f"its activation '{name}' is not known here", "use relu, tanh or logistic")
    return g.op(_ACTIVATIONS[name], x)


@regress.register(MLPRegressor)
def _(step: Any, g: Builder, table: Table) -> Value:
    return _forward(step, g, table.numbers(g, step))


@classify.register(MLPClassifier)
def _(step: Any, g: Builder, table: Table) -> Classes:
    out = _forward(step, g, table.numbers(g, step))
    if step.n_outputs_ > 1:
        return Classes(g.argmax(out), out)
    above = g.cast(g.op("Greater", out, g.constant(np.float64(0.5))), "int64")
    return Classes(g.reshape(above, [-1]), both(g, out))
