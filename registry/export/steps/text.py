"""Bags of words: tokens by a regular expression, counts, weights."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer

from registry.export.builder import MICROSOFT, Builder, Value
from registry.export.steps import refused, transform
from registry.export.steps.scaling import normalised
from registry.export.table import Table

WORDS: Final = {r"(?u)\b\w\w+\b": r"[\pL\pN_][\pL\pN_]+", r"(?u)\b\w+\b": r"[\pL\pN_]+"}
r"""Token patterns of Python in the other dialect, in which \w is ASCII alone."""
PAD: Final = "#"
"""Fills rows with fewer tokens; no token can be equal to it."""


@transform.register(CountVectorizer)
def _(step: Any, g: Builder, table: Table) -> Table:
    counts = _counts(step, g, table)
    if step.binary:
        counts = g.cast(g.op("Greater", counts, g.constant(0.0)), "double")
    return Table.of(counts, len(step.vocabulary_))


@transform.register(TfidfVectorizer)
def _(step: Any, g: Builder, table: Table) -> Table:
    counts = _counts(step, g, table)
    if step.binary:
        counts = g.cast(g.op("Greater", counts, g.constant(0.0)), "double")
    return transform(step._tfidf, g, Table.of(counts, len(step.vocabulary_)))


@transform.register(TfidfTransformer)
def _(step: Any, g: Builder, table: Table) -> Table:
    x = table.numbers(g, step)
    if step.sublinear_tf:
        some = g.op("Greater", x, g.constant(0.0))
        logs = g.op("Add", g.op("Log", g.op("Where", some, x, g.constant(1.0))), g.constant(1.0))
        x = g.op("Where", some, logs, g.constant(0.0))
    if step.use_idf:
        x = g.op("Mul", x, g.constant(np.asarray(step.idf_, np.float64)))
    if step.norm is not None:
        x = normalised(g, x, step.norm)
    return Table.of(x, len(table.fields))


def _counts(step: Any, g: Builder, table: Table) -> Value:
    """How often each word, or sequence of words, of the vocabulary occurs [N, V]."""
    _require_known(step)
    text = g.reshape(table.strings(g, step), [-1])
    if step.lowercase:
        text = g.op("StringNormalizer", text, case_change_action="LOWER", locale="C.UTF-8")
    found = g.op(
        "Tokenizer",
        text,
        domain=MICROSOFT,
        mark=0,
        mincharnum=1,
        pad_value=PAD,
        tokenexp=WORDS[step.token_pattern],
    )
    # rows without any token would make a tensor without columns, which the counting refuses
    blank = g.op("Expand", g.constant(np.array([[PAD]], object)), _rows_by_one(g, text))
    return g.cast(_counted(step, g, g.concat([found, blank])), "double")


def _rows_by_one(g: Builder, text: Value) -> Value:
    return g.concat([g.op("Shape", text), g.constant(np.array([1]))], axis=0)


def _counted(step: Any, g: Builder, tokens: Value) -> Value:
    low, high = step.ngram_range
    words = sorted(
        ((term.split(" "), place) for term, place in step.vocabulary_.items()), key=lambda t: (len(t[0]), t[1])
    )
    pool: list[str] = []
    starts = []
    for length in range(1, high + 1):
        starts.append(len(pool))
        pool += [word for term, _ in words if len(term) == length for word in term]
    # one absent word keeps the pool from being empty
    return g.op(
        "TfIdfVectorizer",
        tokens,
        mode="TF",
        min_gram_length=low,
        max_gram_length=high,
        max_skip_count=0,
        pool_strings=pool,
        ngram_counts=starts,
        ngram_indexes=[place for _, place in words],
    )


def _require_known(step: Any) -> None:
    if step.analyzer != "word" or step.tokenizer is not None or step.preprocessor is not None:
        raise refused(step, "its way of making tokens has no ONNX form", "use analyzer='word' without own functions")
    if step.token_pattern not in WORDS:
        raise refused(step, "its token_pattern has no ONNX form", "use the default one")
    if step.strip_accents is not None:
        raise refused(step, "strip_accents has no ONNX form", "strip them before the model sees the text")
    if step.ngram_range[1] > 1 and step.get_stop_words() is not None:
        raise refused(step, "stop words inside sequences of words have no ONNX form", "use ngram_range=(1, 1)")
