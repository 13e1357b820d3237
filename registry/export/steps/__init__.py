"""Steps of scikit-learn as operators: what each kind of estimator does, written for a graph in float64.

A module of this package registers its kinds with `transform`, `regress` or `classify`; `load` imports them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from importlib import import_module
from typing import Any, Final

from registry.errors import ConversionRefused
from registry.export.builder import Builder, Value
from registry.export.table import Table
from registry.original import known

_MODULES: Final = (
    "bayes", "binning", "calibrating", "composing", "decomposing", "encoding", "ensembles", "functions", "histogram",
    "imputing", "kernels", "linear", "multiple", "neighbour_imputing", "neighbours", "neural", "scaling", "svm", "text",
    "thresholding", "trees",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Classes:
    """A classifier's answers: position of the chosen class [N], probabilities [N, K], decision function [N, 1 or K]."""

    chosen: Value
    probabilities: Value | None = None
    decision: Value | None = None


@singledispatch
def transform(step: Any, g: Builder, table: Table) -> Table:
    """The table that a fitted transformer makes of `table`."""
    from registry.export.steps.foreign import foreign_transform

    return foreign_transform(step, g, table)


@singledispatch
def regress(step: Any, g: Builder, table: Table) -> Value:
    """What a fitted regressor predicts [N, T]."""
    from registry.export.steps.foreign import foreign_regress

    if regress.dispatch(type(known(step))) is not regress.dispatch(object):
        return regress(step, g, table)  # of a library that was met only now
    return foreign_regress(step, g, table)


@singledispatch
def classify(step: Any, g: Builder, table: Table) -> Classes:
    """What a fitted classifier, clusterer or outlier detector answers."""
    from registry.export.steps.foreign import foreign_classify

    if classify.dispatch(type(known(step))) is not classify.dispatch(object):
        return classify(step, g, table)  # of a library that was met only now
    return foreign_classify(step, g, table)


def load() -> None:
    """Import every module of this package, so that the kinds they know are registered."""
    for name in _MODULES:
        import_module(f"{__name__}.{name}")


def refused(step: Any, why: str, hint: str) -> ConversionRefused:
    """The error for a step that has no equivalent operators."""
    name = type(step).__name__
    return ConversionRefused(
        f"step {name}: {why}", where=f"step {name}", expected="a step that has an equivalent in ONNX", hint=hint
    )


def probabilities_of(step: Any, classes: Classes) -> Value:
    """The probabilities of a classifier inside another.

    Raises:
        ConversionRefused: it has none.
    """
    if classes.probabilities is None:
        raise refused(step, "it has no probabilities in the graph", "wrap it in CalibratedClassifierCV")
    return classes.probabilities


def decision_of(step: Any, classes: Classes) -> Value:
    """The decision function of a classifier inside another.

    Raises:
        ConversionRefused: the graph does not have it.
    """
    if classes.decision is None:
        raise refused(step, "its decision function is not in the graph", "use an estimator with probabilities alone")
    return classes.decision
