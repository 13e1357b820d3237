"""Calibrated classifiers: sigmoid, isotonic and temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV

from registry.export.builder import Builder, Value
from registry.export.steps import Classes, classify, decision_of, probabilities_of, refused
from registry.export.steps.binning import isotonic
from registry.export.steps.ensembles import average
from registry.export.steps.linear import both, normalised_shares
from registry.export.table import Table


@classify.register(CalibratedClassifierCV)
def _(step: Any, g: Builder, table: Table) -> Classes:
    classes = np.asarray(step.classes_)
    parts = [_calibrated(member, classes, g, table) for member in step.calibrated_classifiers_]
    shares = average(g, parts)
    return Classes(g.argmax(shares), shares)


def _calibrated(member: Any, classes: Any, g: Builder, table: Table) -> Value:
    inner, count = member.estimator, len(classes)
    if list(inner.classes_) != list(classes):
        raise refused(member, "one of its folds did not see every class", "use fewer folds, or cv='prefit'")
    found = classify(inner, g, table)
    if hasattr(inner, "decision_function"):
        raw = decision_of(inner, found)
        width = 1 if count == 2 else count
    else:
        raw = probabilities_of(inner, found)
        width = count
        if count == 2 and member.method != "temperature":
            raw, width = g.gather(raw, [1]), 1
    if member.method == "temperature":
        return _cooled(member.calibrators[0], g, raw, width, probabilities=not hasattr(inner, "decision_function"))
    columns = [
        _curve(calibrator, g, g.gather(raw, [n]) if width > 1 else raw)
        for n, calibrator in enumerate(member.calibrators)
    ]
    return both(g, columns[0]) if count == 2 else normalised_shares(g, g.concat(columns), count)


def _curve(calibrator: Any, g: Builder, raw: Value) -> Value:
    if hasattr(calibrator, "a_"):
        steep = g.op("Mul", raw, g.constant(-float(calibrator.a_)))
        return g.op("Sigmoid", g.op("Sub", steep, g.constant(float(calibrator.b_))))
    return isotonic(calibrator, g, raw)


def _cooled(calibrator: Any, g: Builder, raw: Value, width: int, *, probabilities: bool) -> Value:
    if probabilities:
        # as scikit-learn takes logits of probabilities: a probability of zero has a finite one
        raw = g.op("Log", g.op("Add", raw, g.constant(float(np.finfo(np.float64).eps))))
    elif width == 1:
        raw = g.concat([g.op("Neg", raw), raw])
    return g.op("Softmax", g.op("Mul", raw, g.constant(float(calibrator.beta_))), axis=1)
