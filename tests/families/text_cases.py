"""Words of a text column."""

from __future__ import annotations

from typing import Any

from sklearn import compose, linear_model, naive_bayes, pipeline, svm
from sklearn.feature_extraction import text

from tests.families import rows
from tests.families.making import case


def _words(vectorizer: Any, estimator: Any) -> Any:
    return pipeline.make_pipeline(compose.ColumnTransformer([("words", vectorizer, "name")]), estimator)


CASES = (
    case(
        "count-vectorizer",
        "CountVectorizer + MultinomialNB",
        lambda: _words(text.CountVectorizer(), naive_bayes.MultinomialNB()),
        rows.airports,
    ),
    case(
        "tf-idf",
        "TfidfVectorizer + LogisticRegression",
        lambda: _words(text.TfidfVectorizer(), linear_model.LogisticRegression()),
        rows.airports,
    ),
    case(
        "tf-idf-pairs",
        "TfidfVectorizer (pairs of words, sublinear) + LinearSVC: scores",
        lambda: _words(text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), svm.LinearSVC()),
        rows.airports,
    ),
    case(
        "hashing",
        "HashingVectorizer + LogisticRegression",
        lambda: _words(text.HashingVectorizer(n_features=256), linear_model.LogisticRegression()),
        rows.airports,
        expect="native",
        note="its hash has no operator",
    ),
)
