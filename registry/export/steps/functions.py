"""numpy functions by name: what FunctionTransformer and TransformedTargetRegressor may hold and still be converted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, PowerTransformer, RobustScaler, StandardScaler

from registry.export.builder import Builder, Value
from registry.export.steps import refused, regress, transform
from registry.export.table import Table


def _unary(kind: str) -> Callable[[Builder, Value], Value]:
    return lambda g, x: g.op(kind, x)


def _log1p(g: Builder, x: Value) -> Value:
    # log(1 + x) loses the digits of a small x; the series of three terms holds below 1e-5
    third = g.op("Sub", g.constant(0.5), g.op("Div", x, g.constant(3.0)))
    series = g.op("Mul", x, g.op("Sub", g.constant(1.0), g.op("Mul", x, third)))
    whole = g.op("Log", g.op("Add", x, g.constant(1.0)))
    return g.op("Where", g.op("Less", g.op("Abs", x), g.constant(1e-5)), series, whole)


def _expm1(g: Builder, x: Value) -> Value:
    sixth = g.op("Add", g.constant(0.5), g.op("Div", x, g.constant(6.0)))
    series = g.op("Mul", x, g.op("Add", g.constant(1.0), g.op("Mul", x, sixth)))
    whole = g.op("Sub", g.op("Exp", x), g.constant(1.0))
    return g.op("Where", g.op("Less", g.op("Abs", x), g.constant(1e-5)), series, whole)


def _scaled(kind: str, by: float) -> Callable[[Builder, Value], Value]:
    return lambda g, x: g.op("Mul", g.op(kind, x), g.constant(by))


FUNCTIONS: Final[Mapping[Any, Callable[[Builder, Value], Value]]] = {
    np.log1p: _log1p,
    np.expm1: _expm1,
    np.log: _unary("Log"),
    np.log2: _scaled("Log", 1.0 / float(np.log(2.0))),
    np.log10: _scaled("Log", 1.0 / float(np.log(10.0))),
    np.exp: _unary("Exp"),
    np.sqrt: _unary("Sqrt"),
    np.abs: _unary("Abs"),
    np.fabs: _unary("Abs"),
    np.sign: _unary("Sign"),
    np.negative: _unary("Neg"),
    np.square: lambda g, x: g.op("Mul", x, x),
    np.reciprocal: lambda g, x: g.op("Div", g.constant(1.0), x),
    np.cbrt: lambda g, x: g.op("Mul", g.op("Sign", x), g.op("Pow", g.op("Abs", x), g.constant(1.0 / 3.0))),
    np.sin: _unary("Sin"),
    np.cos: _unary("Cos"),
    np.tanh: _unary("Tanh"),
    np.floor: _unary("Floor"),
    np.ceil: _unary("Ceil"),
    np.rint: _unary("Round"),
}


def by_name(step: Any, function: Any, arguments: Any) -> Callable[[Builder, Value], Value]:
    """The operators of a numpy function.

    Raises:
        ConversionRefused: it is any other Python code, or has arguments.
    """
    known = FUNCTIONS.get(function) if not arguments else None
    if known is None:
        raise refused(
            step,
            "Python code has no ONNX form",
            "use a numpy function such as np.log1p, or compute the column before the model sees it",
        )
    return known


@transform.register(FunctionTransformer)
def _(step: Any, g: Builder, table: Table) -> Table:
    if step.func is None:
        return table
    function = by_name(step, step.func, step.kw_args)
    return Table.of(function(g, table.numbers(g, step)), len(table.fields), single=table.single)


@regress.register(TransformedTargetRegressor)
def _(step: Any, g: Builder, table: Table) -> Value:
    raw = regress(step.regressor_, g, table)
    inverse = step.transformer_
    if isinstance(inverse, FunctionTransformer):
        function = inverse.inverse_func
        return raw if function is None else by_name(step, function, inverse.inv_kw_args)(g, raw)
    if isinstance(inverse, (StandardScaler, RobustScaler, MinMaxScaler)):
        return _unscaled(inverse, g, raw)
    if isinstance(inverse, PowerTransformer):
        if inverse.standardize:
            raw = _unscaled(inverse._scaler, g, raw)
        return _unpowered(inverse, g, raw)
    raise refused(
        step, f"the inverse of {type(inverse).__name__} is not known here", "use func=np.log1p, inverse_func=np.expm1"
    )


def _unscaled(scaler: Any, g: Builder, x: Value) -> Value:
    if isinstance(scaler, MinMaxScaler):
        return g.op("Div", g.op("Sub", x, g.constant(scaler.min_)), g.constant(scaler.scale_))
    scale = scaler.scale_
    centre = scaler.mean_ if isinstance(scaler, StandardScaler) else scaler.center_
    wide = x if scale is None else g.op("Mul", x, g.constant(scale))
    return wide if centre is None else g.op("Add", wide, g.constant(centre))


def _unpowered(step: Any, g: Builder, x: Value) -> Value:
    def root(value: Value, powers: Any) -> Value:
        zero = np.abs(powers) < np.spacing(1.0)
        safe = np.where(zero, 1.0, powers)
        base = g.op("Add", g.op("Mul", value, g.constant(safe)), g.constant(1.0))
        general = g.op("Pow", base, g.constant(1.0 / safe))
        return g.op("Where", g.constant(zero), g.op("Exp", value), general)

    if step.method == "box-cox":
        return root(x, step.lambdas_)
    below = g.op("Less", x, g.constant(0.0))
    above = g.op("Sub", root(g.op("Where", below, g.constant(0.0), x), step.lambdas_), g.constant(1.0))
    mirrored = g.op("Neg", g.op("Where", below, x, g.constant(0.0)))
    return g.op("Where", below, g.op("Sub", g.constant(1.0), root(mirrored, 2.0 - step.lambdas_)), above)
