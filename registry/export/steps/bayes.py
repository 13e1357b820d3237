"""Naive Bayes: joint log likelihoods, then a softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.naive_bayes import BernoulliNB, CategoricalNB, ComplementNB, GaussianNB, MultinomialNB

from registry.export.builder import Builder, Value
from registry.export.steps import Classes, classify
from registry.export.table import Table


def _posterior(g: Builder, joint: Value) -> Classes:
    return Classes(g.argmax(joint), g.op("Softmax", joint, axis=1))


@classify.register(GaussianNB)
def _(step: Any, g: Builder, table: Table) -> Classes:
    x = table.numbers(g, step)
    columns = []
    for mean, variance, prior in zip(step.theta_, step.var_, step.class_prior_, strict=True):
        away = g.op("Sub", x, g.constant(mean))
        total = g.reduce("ReduceSum", g.op("Div", g.op("Mul", away, away), g.constant(variance)))
        constant = float(np.log(prior)) - 0.5 * float(np.sum(np.log(2.0 * np.pi * variance)))
        columns.append(g.op("Add", g.op("Mul", total, g.constant(-0.5)), g.constant(constant)))
    return _posterior(g, g.concat(columns))


@classify.register(BernoulliNB)
def _(step: Any, g: Builder, table: Table) -> Classes:
    x = table.numbers(g, step)
    if step.binarize is not None:
        x = g.cast(g.op("Greater", x, g.constant(float(step.binarize))), "double")
    absent = np.log(1.0 - np.exp(step.feature_log_prob_))
    return _posterior(g, g.affine(x, (step.feature_log_prob_ - absent).T, step.class_log_prior_ + absent.sum(axis=1)))


@classify.register(MultinomialNB)
def _(step: Any, g: Builder, table: Table) -> Classes:
    return _posterior(g, g.affine(table.numbers(g, step), step.feature_log_prob_.T, step.class_log_prior_))


@classify.register(ComplementNB)
def _(step: Any, g: Builder, table: Table) -> Classes:
    prior = step.class_log_prior_ if len(step.classes_) == 1 else np.zeros(len(step.classes_))
    return _posterior(g, g.affine(table.numbers(g, step), step.feature_log_prob_.T, prior))


@classify.register(CategoricalNB)
def _(step: Any, g: Builder, table: Table) -> Classes:
    codes = g.cast(table.numbers(g, step), "int64")
    joint = g.constant(np.asarray(step.class_log_prior_)[None, :])
    for n, likelihood in enumerate(step.feature_log_prob_):
        code = g.reshape(g.gather(codes, [n]), [-1])
        joint = g.op("Add", joint, g.op("Gather", g.constant(likelihood.T), code, axis=0))
    return _posterior(g, joint)
