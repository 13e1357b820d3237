"""Encoders and words: what each category becomes, seen or not, null or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

from registry.errors import ConversionRefused
from tests.unit.one_step import transformed

GENERATOR = np.random.default_rng(0)
TEXT = np.column_stack(
    [
        GENERATOR.choice(["ä", "b", "日本", "rare"], 500, p=[0.5, 0.3, 0.19, 0.01]),
        GENERATOR.choice(["x", "y"], 500),
    ]
).astype(object)
NUMBERS = np.column_stack([GENERATOR.choice([1.0, 2.5, np.nan, -7.0], 500), GENERATOR.integers(0, 4, 500)])
UNSEEN = np.array([["new", "x"], ["ä", "new"], ["", "y"], ["rare", "x"]], object)
ENCODERS: list[Any] = [
    OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    OneHotEncoder(handle_unknown="ignore", drop="if_binary", sparse_output=False),
    OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=20, sparse_output=False),
    OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=2, drop="first", sparse_output=False),
    OneHotEncoder(handle_unknown="ignore"),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, min_frequency=20),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=9, encoded_missing_value=-3),
    TargetEncoder(random_state=0),
]


def _asked(step: Any, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found = step.transform(x)
    return np.asarray(found.toarray() if hasattr(found, "toarray") else found, np.float64)


@pytest.mark.filterwarnings("ignore:Found unknown categories")
@pytest.mark.parametrize("step", ENCODERS, ids=repr)
@pytest.mark.parametrize("kind", ["text", "numbers"])
def test_encoders_answer_every_category(step: Any, kind: str) -> None:
    """Frequent, rare, dropped, null and never seen."""
    x = TEXT if kind == "text" else NUMBERS
    more = UNSEEN if kind == "text" else np.array([[99.0, 0.0], [1.0, 77.0], [np.nan, 1.0]])
    step.fit(x, GENERATOR.normal(size=len(x)))
    asked = np.vstack([x, more])
    np.testing.assert_allclose(transformed(step, asked), _asked(step, asked), rtol=1e-12)


def test_classes_of_a_target_encoder_keep_their_order() -> None:
    """One column for each column and class."""
    step = TargetEncoder(random_state=0).fit(TEXT, GENERATOR.choice(["p", "q", "r"], len(TEXT)))
    asked = np.vstack([TEXT, UNSEEN])
    np.testing.assert_allclose(transformed(step, asked), step.transform(asked), rtol=1e-12)


def test_an_encoder_that_refuses_the_unseen_answers_no_category() -> None:
    """A request cannot be refused inside a graph: all of its columns are zero."""
    step = OneHotEncoder(sparse_output=False).fit(TEXT)
    got = transformed(step, UNSEEN)
    np.testing.assert_array_equal(got[0], np.append(np.zeros(4), [1.0, 0.0]))
    assert got.sum() == 5.0


def test_null_and_the_empty_text_as_two_categories_are_refused() -> None:
    """Requests have only one of them."""
    x = np.array([["a"], [""], [None]] * 5, object)
    with pytest.raises(ConversionRefused, match="null and the empty text") as caught:
        transformed(OneHotEncoder().fit(x), x)
    assert "fill the nulls" in caught.value.hint


def test_text_is_imputed() -> None:
    """Null comes in as the empty text."""
    x = TEXT.copy()
    x[::5, 0] = np.nan
    step = SimpleImputer(strategy="most_frequent").fit(x)
    fed = np.where(pd.isna(x), "", x).astype(object)
    np.testing.assert_array_equal(transformed(step, fed), step.transform(x))


WORDS = np.array(
    [
        ["Überraschung im Café; the CAFÉ is über-open"],
        ["日本語 テキスト 日本語"],
        ["a b c"],
        ["under_score x2 2x 1234 ٣٤ ½"],
        ["!!! ..."],
        ["the the open café is"],
        [""],
        ["ΑΒΓ αβγ Ärger ÄRGER"],
    ],
    object,
)


@pytest.mark.parametrize(
    "step",
    [
        CountVectorizer(),
        CountVectorizer(lowercase=False),
        CountVectorizer(binary=True, token_pattern=r"(?u)\b\w+\b"),
        CountVectorizer(ngram_range=(1, 3)),
        CountVectorizer(ngram_range=(2, 2)),
        CountVectorizer(stop_words=["the", "is"]),
        TfidfVectorizer(),
        TfidfVectorizer(sublinear_tf=True, norm="l1", ngram_range=(1, 2)),
        TfidfVectorizer(use_idf=False, norm=None, max_features=5),
    ],
    ids=repr,
)
def test_words_are_counted_as_python_counts_them(step: Any) -> None:
    """In every script, with and without case; each row alone as in a batch, without any word too."""
    wanted = step.fit_transform(WORDS.ravel()).toarray()
    np.testing.assert_allclose(transformed(step, WORDS), wanted, rtol=1e-12)
    for n in range(len(WORDS)):
        np.testing.assert_allclose(transformed(step, WORDS[[n]]), wanted[[n]], rtol=1e-12)


@pytest.mark.parametrize(
    "step",
    [
        CountVectorizer(analyzer="char"),
        CountVectorizer(tokenizer=str.split, token_pattern=None),
        CountVectorizer(token_pattern=r"[a-z]+"),
        CountVectorizer(strip_accents="unicode"),
        CountVectorizer(ngram_range=(1, 2), stop_words=["the"]),
    ],
    ids=["characters", "tokenizer", "pattern", "accents", "stop words in pairs"],
)
def test_other_ways_of_making_words_are_refused(step: Any) -> None:
    """With the way that converts."""
    with pytest.raises(ConversionRefused, match="CountVectorizer") as caught:
        transformed(step.fit(WORDS.ravel()), WORDS)
    assert caught.value.hint
