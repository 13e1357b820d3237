"""Operators of ai.onnx.ml whose lists must fit each other: the runtime reads them without looking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from registry.graphs.read import ELEMENTS, Attributes
from registry.graphs.trees import check_tree_classifier, check_tree_ensemble, check_tree_regressor

MAX_GRAM: Final = 16
MAX_VOCABULARY: Final = 10_000_000
MAX_TEXT: Final = 256
MAX_SEPARATORS: Final = 64
_TRANSFORMS: Final = frozenset({"NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"})
_KERNELS: Final = frozenset({"LINEAR", "POLY", "RBF", "SIGMOID"})

Check = Callable[[Attributes], int | None]
"""Refuses a node; returns how many columns its first input must have, or at least have, where the lists tell."""


def _svm_kernel(a: Attributes) -> None:
    a.require(a.one("kernel_type", "LINEAR") in _KERNELS, "its kernel is unknown")
    a.require(len(a.finite("kernel_params")) in (0, 3), "it needs three parameters of the kernel, or none")
    a.require(a.one("post_transform", "NONE") in _TRANSFORMS, "the transformation of its answer is unknown")


def _labels(a: Attributes) -> int:
    texts, whole = a.texts("classlabels_strings"), a.whole("classlabels_ints").tolist()
    a.require(bool(texts) != bool(whole), "it needs class labels of one type")
    classes = texts or whole
    a.require(len(set(classes)) == len(classes), "a class label occurs twice")
    return len(classes)


def _svm_classifier(a: Attributes) -> int:
    _svm_kernel(a)
    classes = _labels(a)
    per_class, rho = a.whole("vectors_per_class"), a.finite("rho")
    coefficients, vectors = a.finite("coefficients"), a.finite("support_vectors")
    pairs = classes * (classes - 1) // 2
    a.require(classes >= 2, "it needs two classes or more")
    a.require(bool((per_class >= 0).all()) and bool((per_class < MAX_VOCABULARY).all()), "a count of vectors cannot be")
    if len(per_class) == 0:
        a.require(len(vectors) == 0, "it has support vectors of no class")
        a.require(len(coefficients) > 0 and len(coefficients) % classes == 0, "its coefficients do not fit its classes")
        a.require(len(rho) in (1, classes), "its constants do not fit its classes")
        return len(coefficients) // classes
    count = int(per_class.sum())
    a.require(len(per_class) == classes, "it counts support vectors of another number of classes")
    a.require(
        count > 0 and len(vectors) > 0 and len(vectors) % count == 0, "its support vectors do not fit their count"
    )
    a.require(len(coefficients) == (classes - 1) * count, "its coefficients do not fit its support vectors")
    a.require(len(rho) == pairs, "its constants do not fit the pairs of its classes")
    odds = [len(a.finite(name)) for name in ("prob_a", "prob_b")]
    a.require(odds in ([0, 0], [pairs, pairs]), "its probabilities do not fit the pairs of its classes")
    return len(vectors) // count


def _svm_regressor(a: Attributes) -> int:
    _svm_kernel(a)
    count = int(a.one("n_supports", 0))
    coefficients, vectors = a.finite("coefficients"), a.finite("support_vectors")
    a.require(len(a.finite("rho")) == 1, "it needs one constant")
    a.require(a.one("one_class", 0) in (0, 1), "'one_class' is neither 0 nor 1")
    if count == 0:
        a.require(len(vectors) == 0 and len(coefficients) > 0, "it has support vectors, but says none")
        return len(coefficients)
    a.require(count > 0 and len(coefficients) == count, "its coefficients do not fit its support vectors")
    a.require(len(vectors) > 0 and len(vectors) % count == 0, "its support vectors do not fit their count")
    return len(vectors) // count


def _linear_classifier(a: Attributes) -> int:
    classes = _labels(a)
    coefficients, intercepts = a.finite("coefficients"), a.finite("intercepts")
    rows = len(intercepts)
    a.require(a.one("multi_class", 0) in (0, 1), "'multi_class' is neither 0 nor 1")
    a.require(a.one("post_transform", "NONE") in _TRANSFORMS, "the transformation of its answer is unknown")
    a.require(rows == classes or (rows, classes) == (1, 2), "its intercepts do not fit its classes")
    a.require(len(coefficients) > 0 and len(coefficients) % rows == 0, "its coefficients do not fit its classes")
    return len(coefficients) // rows


def _linear_regressor(a: Attributes) -> int:
    targets = int(a.one("targets", 1))
    coefficients = a.finite("coefficients")
    a.require(a.one("post_transform", "NONE") in _TRANSFORMS, "the transformation of its answer is unknown")
    a.require(0 < targets <= MAX_VOCABULARY, "the number of targets cannot be")
    a.require(len(coefficients) > 0 and len(coefficients) % targets == 0, "its coefficients do not fit its targets")
    a.require(len(a.finite("intercepts")) in (0, targets), "its intercepts do not fit its targets")
    return len(coefficients) // targets


def _scaler(a: Attributes) -> int | None:
    offsets, scales = len(a.finite("offset")), len(a.finite("scale"))
    a.require(offsets > 0 and scales > 0, "it needs offsets and scales")
    a.require(offsets == scales, "its offsets and scales differ in length")
    return offsets if offsets > 1 else None


def _normalizer(a: Attributes) -> None:
    a.require(a.one("norm", "MAX") in ("MAX", "L1", "L2"), "its norm is unknown")


def _one_hot(a: Attributes) -> None:
    categories = [a.texts("cats_strings"), a.whole("cats_int64s").tolist()]
    a.require(sum(map(bool, categories)) == 1, "it needs categories of one type")
    a.require(a.one("zeros", 1) in (0, 1), "'zeros' is neither 0 nor 1")


def _label_encoder(a: Attributes) -> None:
    if "classes_strings" in a:
        a.require(not any(f"{side}_{kind}" in a for side in ("keys", "values") for kind in _KINDS), "two maps at once")
        a.require(len(a.texts("classes_strings")) > 0, "it has no classes")
        return
    lengths: list[int] = []
    for side in ("keys", "values"):
        given = [f"{side}_{kind}" for kind in _KINDS if f"{side}_{kind}" in a]
        a.require(len(given) == 1, f"it needs {side} of one type")
        lengths.append(a.length(given[0]))
    a.require(lengths[0] == lengths[1] > 0, "its keys and values differ in length")


_KINDS: Final = ("strings", "int64s", "floats", "tensor")


def _cast(a: Attributes) -> None:
    a.require(int(a.one("to", 0)) in ELEMENTS, "it makes elements of a type that is not allowed")


def _imputer(a: Attributes) -> int | None:
    floats, whole = len(a.numbers("imputed_value_floats")), len(a.whole("imputed_value_int64s"))
    a.require(bool(floats) != bool(whole), "it needs values of one type")
    return max(floats, whole) if max(floats, whole) > 1 else None


def _feature_vectorizer(a: Attributes) -> None:
    sizes = a.whole("inputdimensions")
    a.require(len(sizes) > 0 and bool(((sizes > 0) & (sizes < MAX_VOCABULARY)).all()), "its dimensions cannot be")


def _binarizer(a: Attributes) -> None:
    a.require(bool(np.isfinite(a.one("threshold", 0.0))), "its threshold is not finite")


def _vectorizer(a: Attributes) -> None:
    least, most = int(a.one("min_gram_length", 1)), int(a.one("max_gram_length", 1))
    a.require(1 <= least <= most <= MAX_GRAM, "its lengths of n-grams cannot be")
    a.require(0 <= int(a.one("max_skip_count", 0)) <= MAX_GRAM, "its number of skips cannot be")
    a.require(a.one("mode", "") in ("TF", "IDF", "TFIDF"), "its mode is unknown")
    pools = [a.texts("pool_strings"), a.whole("pool_int64s").tolist()]
    a.require(sum(map(bool, pools)) == 1, "it needs a pool of one type")
    size = len(pools[0] or pools[1])
    starts, columns, weights = a.whole("ngram_counts"), a.whole("ngram_indexes"), a.finite("weights")
    ordered = len(starts) > 0 and starts[0] == 0 and bool((np.diff(starts) >= 0).all()) and starts[-1] <= size
    a.require(ordered and most <= len(starts), "the starts of its n-grams do not fit its pool")
    sizes = np.diff(np.append(starts, size))
    whole = [int(n) % (i + 1) == 0 for i, n in enumerate(sizes)]
    a.require(all(whole), "its pool holds a part of an n-gram")
    a.require(len(columns) == sum(int(n) // (i + 1) for i, n in enumerate(sizes)), "its columns do not fit its pool")
    a.require(bool(((columns >= 0) & (columns < MAX_VOCABULARY)).all()), "a column cannot be")
    a.require(len(weights) in (0, len(columns)), "its weights do not fit its columns")


def _string_normalizer(a: Attributes) -> None:
    a.require(a.one("case_change_action", "NONE") in ("NONE", "LOWER", "UPPER"), "its change of case is unknown")
    a.require(a.one("is_case_sensitive", 0) in (0, 1), "'is_case_sensitive' is neither 0 nor 1")
    a.require(a.one("locale", "") in ("", "C", "C.UTF-8", "en_US", "en_US.UTF-8"), "its locale is not allowed")


def _tokenizer(a: Attributes) -> None:
    pattern, separators = str(a.one("tokenexp", "")), a.texts("separators")
    a.require(bool(pattern) != bool(separators), "it needs an expression or separators")
    a.require(len(pattern) <= MAX_TEXT, f"its expression is longer than {MAX_TEXT} characters")
    # RE2 runs in linear time, but a repetition makes its program larger by as much
    a.require("{" not in pattern, "its expression repeats by number")
    a.require(len(separators) <= MAX_SEPARATORS, f"it has more than {MAX_SEPARATORS} separators")
    a.require(all(len(text) <= MAX_TEXT for text in separators), f"a separator is longer than {MAX_TEXT} characters")
    a.require(not any("{" in text for text in separators), "a separator repeats by number")
    a.require(a.one("mark", -1) in (0, 1), "'mark' is neither 0 nor 1")
    a.require(0 < int(a.one("mincharnum", 0)) <= MAX_TEXT, "'mincharnum' cannot be")
    a.require(len(str(a.one("pad_value", ""))) <= MAX_TEXT, f"its padding is longer than {MAX_TEXT} characters")


CHECKS: Final[Mapping[str, Check]] = {
    "TreeEnsemble": check_tree_ensemble,
    "TreeEnsembleClassifier": check_tree_classifier,
    "TreeEnsembleRegressor": check_tree_regressor,
    "SVMClassifier": _svm_classifier,
    "SVMRegressor": _svm_regressor,
    "LinearClassifier": _linear_classifier,
    "LinearRegressor": _linear_regressor,
    "Scaler": _scaler,
    "Normalizer": _normalizer,
    "OneHotEncoder": _one_hot,
    "LabelEncoder": _label_encoder,
    "Cast": _cast,
    "Imputer": _imputer,
    "FeatureVectorizer": _feature_vectorizer,
    "Binarizer": _binarizer,
    "TfIdfVectorizer": _vectorizer,
    "StringNormalizer": _string_normalizer,
    "Tokenizer": _tokenizer,
}
"""By operator; the others have no lists that have to fit."""
