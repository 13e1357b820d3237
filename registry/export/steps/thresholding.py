"""Classifiers with a decision threshold of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV

from registry.export.builder import Builder
from registry.export.steps import Classes, classify, decision_of, probabilities_of
from registry.export.table import Table


@classify.register(TunedThresholdClassifierCV)
@classify.register(FixedThresholdClassifier)
def _(step: Any, g: Builder, table: Table) -> Classes:
    inner = getattr(step, "estimator_", step.estimator)
    found = classify(inner, g, table)
    tuned = isinstance(step, TunedThresholdClassifierCV)
    label = step._curve_scorer._get_pos_label() if tuned else step.pos_label
    positive = 1 if label is None else int(np.flatnonzero(np.asarray(step.classes_) == label)[0])
    methods = step._get_response_method()
    methods = [methods] if isinstance(methods, str) else list(methods)
    method = next(name for name in methods if hasattr(inner, name))
    if method == "predict_proba":
        score, usual = g.gather(probabilities_of(inner, found), [positive]), 0.5
    else:
        raw = decision_of(inner, found)
        score, usual = (raw if positive == 1 else g.op("Neg", raw)), 0.0
    limit = step.best_threshold_ if tuned else usual if step.threshold == "auto" else step.threshold
    above = g.cast(g.op("GreaterOrEqual", score, g.constant(float(limit))), "int64")
    chosen = above if positive == 1 else g.op("Sub", g.constant(np.int64(1)), above)
    return Classes(g.reshape(chosen, [-1]), found.probabilities, found.decision)
