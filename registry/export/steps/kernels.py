"""Kernel ridge regression and Gaussian processes: similarity to every fitted row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as gp
from sklearn.kernel_ridge import KernelRidge

from registry.export.builder import Builder, Value
from registry.export.steps import refused, regress
from registry.export.table import Table

Array = npt.NDArray[Any]


def squared_distances(g: Builder, x: Value, points: Array) -> Value:
    """Squared Euclidean distance of each row to each point [N, P], never below zero."""
    mine = g.reduce("ReduceSum", g.op("Mul", x, x))
    theirs = g.constant((points**2).sum(axis=1)[None, :])
    product = g.op("MatMul", x, g.constant(-2.0 * points.T))
    return g.op("Max", g.op("Add", g.op("Add", mine, theirs), product), g.constant(0.0))


def polynomial(g: Builder, x: Value, points: Array, gamma: float, shift: float, degree: float) -> Value:
    """(gamma <x, point> + shift) to the power of `degree`."""
    # gamma belongs into the matrix: ONNX Runtime would fold a multiplication behind it, in float32
    inner = g.op("Add", g.op("MatMul", x, g.constant(gamma * points.T)), g.constant(shift))
    return inner if degree == 1.0 else g.op("Pow", inner, g.constant(degree))


def radial(g: Builder, x: Value, points: Array, gamma: float) -> Value:
    """exp(-gamma d²)."""
    return g.op("Exp", g.op("Mul", squared_distances(g, x, points), g.constant(-gamma)))


@regress.register(KernelRidge)
def _(step: Any, g: Builder, table: Table) -> Value:
    x, points = table.numbers(g, step), np.asarray(step.X_fit_, np.float64)
    gamma = 1.0 / points.shape[1] if step.gamma is None else float(step.gamma)
    if step.kernel == "linear":
        similar = g.op("MatMul", x, g.constant(points.T))
    elif step.kernel == "rbf":
        similar = radial(g, x, points, gamma)
    elif step.kernel in ("poly", "polynomial"):
        similar = polynomial(g, x, points, gamma, float(step.coef0), float(step.degree))
    elif step.kernel == "sigmoid":
        similar = g.op("Tanh", polynomial(g, x, points, gamma, float(step.coef0), 1.0))
    else:
        raise refused(step, f"its kernel '{step.kernel}' is not known here", "use rbf, linear, poly or sigmoid")
    return g.op("MatMul", similar, g.constant(np.asarray(step.dual_coef_, np.float64).reshape(len(points), -1)))


@regress.register(GaussianProcessRegressor)
def _(step: Any, g: Builder, table: Table) -> Value:
    x, points = table.numbers(g, step), np.asarray(step.X_train_, np.float64)
    weights = np.asarray(step.alpha_, np.float64).reshape(len(points), -1)
    similar = _covariance(step, step.kernel_, g, x, points)
    return g.affine(similar, weights * np.atleast_1d(step._y_train_std), np.atleast_1d(step._y_train_mean))


def _covariance(step: Any, kernel: Any, g: Builder, x: Value, points: Array) -> Value:
    """A kernel between the rows and the fitted rows [N, P]."""
    if isinstance(kernel, (gp.Sum, gp.Product)):
        sides = [_covariance(step, side, g, x, points) for side in (kernel.k1, kernel.k2)]
        return g.op("Add" if isinstance(kernel, gp.Sum) else "Mul", *sides)
    if isinstance(kernel, gp.ConstantKernel):
        return g.constant(np.full((1, len(points)), float(kernel.constant_value)))
    if isinstance(kernel, gp.WhiteKernel):
        return g.constant(np.zeros((1, len(points))))  # noise is of one row with itself
    if isinstance(kernel, gp.DotProduct):
        product = g.op("MatMul", x, g.constant(points.T))
        return g.op("Add", product, g.constant(float(kernel.sigma_0) ** 2))
    if isinstance(kernel, gp.RationalQuadratic):
        share = float(kernel.length_scale) ** 2 * 2.0 * float(kernel.alpha)
        base = g.op("Add", g.op("Div", squared_distances(g, x, points), g.constant(share)), g.constant(1.0))
        return g.op("Pow", base, g.constant(-float(kernel.alpha)))
    if isinstance(kernel, gp.RBF):  # Matérn's kernels are of this type too
        scale = np.asarray(kernel.length_scale, np.float64)
        squared = squared_distances(g, g.op("Div", x, g.constant(np.atleast_1d(scale))), points / scale)
        if not isinstance(kernel, gp.Matern):
            return g.op("Exp", g.op("Mul", squared, g.constant(-0.5)))
        if kernel.nu in (0.5, 1.5, 2.5):
            return _matern(g, squared, float(kernel.nu))
    raise refused(step, f"its kernel {type(kernel).__name__} is not known here", "use RBF, Matern 0.5, 1.5 or 2.5, …")


def _matern(g: Builder, squared: Value, nu: float) -> Value:
    away = g.op("Mul", g.op("Sqrt", squared), g.constant(float(np.sqrt(2.0 * nu))))
    fading = g.op("Exp", g.op("Neg", away))
    if nu == 0.5:
        return fading
    factor = g.op("Add", away, g.constant(1.0))
    if nu == 2.5:
        factor = g.op("Add", factor, g.op("Div", g.op("Mul", away, away), g.constant(3.0)))
    return g.op("Mul", factor, fading)
