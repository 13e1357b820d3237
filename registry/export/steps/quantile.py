"""Quantiles of the normal distribution: Wichura's algorithm AS 241, good to sixteen digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import stats
from sklearn.preprocessing._data import BOUNDS_THRESHOLD

from registry.export.builder import Builder, Value

_CENTRE: Final = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3, 2.1213794301586595867e4,
     3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)  # fmt: skip
_NEAR: Final = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1, 1.48103976427480074590e-1,
     1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)  # fmt: skip
_FAR: Final = (
    (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2, 7.86869131145613259100e-4,
     1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
)  # fmt: skip


def normal_quantile(g: Builder, share: Value) -> Value:
    """Where the normal distribution has `share` of itself below, within scikit-learn's bounds."""
    centred = g.op("Sub", share, g.constant(0.5))
    squared = g.op("Sub", g.constant(0.180625), g.op("Mul", centred, centred))
    middle = g.op("Mul", centred, _ratio(g, squared, _CENTRE))
    tail = g.op("Max", g.op("Min", share, g.op("Sub", g.constant(1.0), share)), g.constant(1e-300))
    root = g.op("Sqrt", g.op("Neg", g.op("Log", tail)))
    near = _ratio(g, g.op("Sub", root, g.constant(1.6)), _NEAR)
    far = _ratio(g, g.op("Sub", root, g.constant(5.0)), _FAR)
    away = g.op("Mul", g.op("Sign", centred), g.op("Where", g.op("LessOrEqual", root, g.constant(5.0)), near, far))
    found = g.op("Where", g.op("LessOrEqual", g.op("Abs", centred), g.constant(0.425)), middle, away)
    low = float(stats.norm.ppf(BOUNDS_THRESHOLD - np.spacing(1)))
    high = float(stats.norm.ppf(1 - (BOUNDS_THRESHOLD - np.spacing(1))))
    return g.op("Min", g.op("Max", found, g.constant(low)), g.constant(high))


def _ratio(g: Builder, x: Value, parts: tuple[Sequence[float], Sequence[float]]) -> Value:
    return g.op("Div", _polynomial(g, x, parts[0]), _polynomial(g, x, parts[1]))


def _polynomial(g: Builder, x: Value, coefficients: Sequence[float]) -> Value:
    total = g.constant(float(coefficients[-1]))
    for coefficient in reversed(coefficients[:-1]):
        total = g.op("Add", g.op("Mul", total, x), g.constant(float(coefficient)))
    return total
