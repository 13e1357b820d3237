"""What people pass to `log_model`: each mistake has a message with the thing and the fix, and no values."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from registry.contract import Output
from registry.errors import ContractViolation, ConversionRefused, NameInvalid, PereneError
from registry.infer import check_holdout, infer_contract
from registry.leakage import check_leakage
from registry.truth import checked_labels
from tests.conftest import Toy, toy_frame

SECRET = "s3cr3t-value"


def with_column(toy: Toy, values: Any) -> pd.DataFrame:
    return toy.X.assign(carrier=values)


def of_each(toy: Toy, value: Any) -> pd.Series[Any]:
    return pd.Series([value] * len(toy.X), index=toy.X.index)


FRAMES: list[tuple[str, Callable[[Toy], Any], str, str]] = [
    ("an array", lambda t: t.X[["hour"]].to_numpy(), "X must be a DataFrame", "columns="),
    ("a list", lambda t: [[1, 2]], "X must be a DataFrame", "columns="),
    ("no rows", lambda t: t.X.head(0), "no rows", "1,000"),
    ("no columns", lambda t: t.X[[]], "0 columns", "features"),
    ("10,000 columns", lambda t: pd.DataFrame(np.zeros((2, 10_000))).add_prefix("c"), "10000 columns", "select"),
    ("numbered columns", lambda t: t.X.set_axis(range(4), axis=1), "has no name", "rename"),
    ("a hidden column", lambda t: t.X.rename(columns={"hour": "_at"}), "'_at'", "rename"),
    ("an empty name", lambda t: t.X.rename(columns={"hour": ""}), "needs a name", "rename"),
    ("two of a name", lambda t: t.X.rename(columns={"hour": "temp"}), "two columns named 'temp'", "rename"),
    ("levels", lambda t: pd.concat({"a": t.X}, axis=1), "several levels", "join"),
    ("nulls only", lambda t: with_column(t, None), "'carrier' holds nothing but nulls", "drop 'carrier'"),
    ("mixed types", lambda t: with_column(t, [1, SECRET] * (len(t.X) // 2)), "'carrier'", "astype"),
    ("datetimes", lambda t: with_column(t, pd.Timestamp("2026-01-01")), "'carrier'", ".dt.hour"),
    ("zoned datetimes", lambda t: with_column(t, pd.Timestamp("2026-01-01", tz="UTC")), "'carrier'", ".dt.hour"),
    ("dates", lambda t: with_column(t, of_each(t, date(2026, 1, 1))), "'carrier'", "days since"),
    ("timedeltas", lambda t: with_column(t, pd.Timedelta(hours=1)), "'carrier'", "total_seconds"),
    ("complex", lambda t: with_column(t, 1j), "'carrier'", "imaginary"),
    ("decimals", lambda t: with_column(t, of_each(t, Decimal("1.5"))), "'carrier'", "astype(float)"),
    ("lists", lambda t: with_column(t, of_each(t, [1, 2])), "'carrier'", "each element"),
    ("dicts", lambda t: with_column(t, of_each(t, {"a": 1})), "'carrier'", "each element"),
    ("bytes", lambda t: with_column(t, of_each(t, b"AA")), "'carrier'", "astype(str)"),
    ("sparse", lambda t: t.X.assign(hour=pd.arrays.SparseArray(t.X["hour"])), "'hour' is sparse", "to_dense"),
    ("numbers as categories", lambda t: with_column(t, t.X["hour"].astype("category")), "'carrier'", "astype(str)"),
    ("a column less", lambda t: t.X.drop(columns="hour"), "missing: 'hour'", "feature_names_in_"),
    ("a column more", lambda t: t.X.assign(more=1.0), "not known to it: 'more'", "feature_names_in_"),
    ("another order", lambda t: t.X[t.X.columns[::-1]], "another order", "feature_names_in_"),
]


@pytest.mark.parametrize(("make", "says", "fix"), [case[1:] for case in FRAMES], ids=[case[0] for case in FRAMES])
def test_a_frame_that_cannot_be_served_from_is_named(
    make: Callable[[Toy], Any], says: str, fix: str, regression: Toy
) -> None:
    """The message has the thing, the hint the fix."""
    with pytest.raises(ContractViolation) as caught:
        infer_contract(regression.estimator, make(regression), "toy")
    assert says in caught.value.message
    assert fix in caught.value.hint
    assert SECRET not in str(vars(caught.value))


def test_frames_of_other_libraries_are_told_how() -> None:
    """By the name of their package."""

    class Frame:
        __module__ = "polars.dataframe.frame"

    with pytest.raises(ContractViolation) as caught:
        infer_contract(None, Frame(), "toy")  # type: ignore[arg-type]
    assert caught.value.hint == "pass X.to_pandas()"
    from scipy.sparse import csr_matrix

    with pytest.raises(ContractViolation) as caught:
        infer_contract(None, csr_matrix((2, 2)), "toy")
    assert "toarray" in caught.value.hint


@pytest.mark.parametrize("name", ["../evil", "a/b", "_x", "Toy", "", "a..b", "x" * 64, "a b", "é", None, 5])
def test_a_name_that_could_escape_is_refused(name: Any, regression: Toy) -> None:
    """Before anything is looked at."""
    with pytest.raises(NameInvalid):
        infer_contract(regression.estimator, regression.X, name)


def test_an_estimator_fitted_on_an_array_is_held_to_its_number_of_columns(regression: Toy) -> None:
    """It knows no names."""
    from sklearn.linear_model import Ridge

    model = Ridge().fit(regression.X[["hour", "late"]].to_numpy(float), regression.y)
    with pytest.raises(ContractViolation, match="fitted on 2 columns, X has 4"):
        infer_contract(model, regression.X, "toy")


def test_an_unfitted_estimator_is_refused(regression: Toy) -> None:
    """The fix is in the message."""
    from sklearn.base import clone

    with pytest.raises(ConversionRefused, match="call fit before"):
        infer_contract(clone(regression.estimator), regression.X, "toy")


def test_nullable_and_arrow_types_work(regression: Toy) -> None:
    """Int64, Float64, boolean and string, with and without nulls, mean what their plain kin mean."""
    plain = toy_frame(50)
    frame = plain.astype({"temp": "Float64", "hour": "Int64", "late": "boolean", "carrier": "string"})
    kinds = {c.name: c.dtype for c in infer_contract(regression.estimator, frame, "toy").columns}
    assert kinds == {"temp": "float", "hour": "int", "late": "bool", "carrier": "string"}
    frame.loc[3, ["hour", "late", "carrier"]] = pd.NA
    assert all(c.nullable for c in infer_contract(regression.estimator, frame, "toy").columns)


def test_infinities_and_doubled_index_labels_are_no_obstacle(regression: Toy) -> None:
    """Ranges are those of the finite values."""
    frame = regression.X.copy()
    frame.loc[0, "temp"] = np.inf
    frame.index = pd.Index(np.zeros(len(frame), int))
    column = infer_contract(regression.estimator, frame, "toy").columns[0]
    assert column.maximum is not None
    assert np.isfinite(column.maximum)


REGRESSION = Output("regression")
CLASSES = Output("classification", ("no", "yes"))


@pytest.mark.parametrize(
    ("output", "y", "says"),
    [
        (REGRESSION, [1.0, 2.0], "different lengths"),
        (REGRESSION, [1.0, np.nan, 2.0], "1 values that are not finite"),
        (REGRESSION, [1.0, None, np.inf], "2 values that are not finite"),
        (REGRESSION, [SECRET, 1, 2], "else than numbers"),
        (REGRESSION, [[1.0, 2.0]] * 3, "another shape"),
        (Output("regression", targets=("a", "b")), [1.0, 2.0, 3.0], "another shape"),
        (CLASSES, ["no", "yes"], "different lengths"),
        (CLASSES, ["no", None, "yes"], "1 nulls"),
        (CLASSES, ["no", SECRET, SECRET], "2 labels that the estimator does not know"),
        (CLASSES, 5, "different lengths"),
    ],
)
def test_labels_that_do_not_fit_are_counted_not_shown(output: Output, y: Any, says: str) -> None:
    """How many, of what, and what to do."""
    with pytest.raises(ContractViolation, match=says) as caught:
        checked_labels(output, y if isinstance(y, int) else np.array(y, dtype=object), 3)
    assert SECRET not in str(vars(caught.value))


def test_labels_that_fit_come_in_many_forms() -> None:
    """A column, a series, a list, floats for integer classes; none at all."""
    for y in (
        [1, 2, 3],
        np.array([[1], [2], [3]]),
        pd.Series([1, 2, 3], index=[7, 8, 9]),
        pd.DataFrame({"y": [1, 2, 3]}),
    ):
        assert np.asarray(checked_labels(REGRESSION, y, 3)).tolist() == [1.0, 2.0, 3.0]
    assert checked_labels(Output("classification", (0, 1)), [0.0, 1.0, 1.0], 3) is not None
    assert checked_labels(REGRESSION, None, 3) is None


def test_a_holdout_without_a_column_is_named(regression: Toy) -> None:
    """Or with one of another type."""
    contract = infer_contract(regression.estimator, regression.X, "toy")
    for frame, says in (
        (regression.X.drop(columns="hour"), "no column 'hour'"),
        (regression.X.assign(carrier=1.0), "'carrier' of the holdout has another type"),
        (regression.X.head(0), "no DataFrame with rows"),
    ):
        with pytest.raises(ContractViolation, match=says):
            check_holdout(contract, frame)


# a column that tells the label ------------------------------------------------------------------------------

ROWS = 1_000
NOISE = np.random.default_rng(0).normal(size=ROWS)
MINUTES = np.random.default_rng(1).gamma(2.0, 30.0, ROWS)
LATE = (MINUTES > 60).astype(int)


def test_booleans_are_labels_of_a_classifier_that_numbers_its_classes() -> None:
    """XGBoost is fitted on booleans and knows 0 and 1; a classifier of booleans keeps them."""
    y = np.array([True, False, True])
    numbered = checked_labels(Output("classification", (0, 1)), y, 3)
    kept = checked_labels(Output("classification", (False, True)), y, 3)
    assert (np.asarray(numbered).tolist(), np.asarray(kept).tolist()) == ([1, 0, 1], [True, False, True])


@pytest.mark.parametrize(
    ("column", "labels", "output"),
    [
        (MINUTES, MINUTES, REGRESSION),
        (MINUTES / 60, MINUTES, REGRESSION),
        (-np.log(MINUTES), MINUTES, REGRESSION),
        (np.where(np.arange(ROWS) % 50 == 0, np.nan, MINUTES), MINUTES, REGRESSION),
        (MINUTES + NOISE * 1e-4, MINUTES, REGRESSION),
        (MINUTES, LATE, Output("classification", (0, 1))),
        (LATE, LATE, Output("classification", (0, 1))),
        (np.where(LATE == 1, "y", "n"), np.where(LATE == 1, "yes", "no"), CLASSES),
        (np.round(MINUTES / 60), np.round(MINUTES / 60) % 3, REGRESSION),
    ],
)
def test_a_column_that_tells_the_label_is_named(column: Any, labels: Any, output: Output) -> None:
    """Equal, a monotone copy, one threshold, one label for each value; naming it is the way past."""
    frame = pd.DataFrame({"calm": NOISE, "leak": column})
    known = checked_labels(output, labels, ROWS)
    with pytest.raises(ContractViolation, match="'leak' tells the label") as caught:
        check_leakage(frame, known, output, ())
    assert "Facts(leakage_ok=['leak'])" in caught.value.hint
    assert "calm" not in str(vars(caught.value))
    check_leakage(frame, known, output, ["leak"])


@pytest.mark.parametrize(
    ("column", "labels", "output"),
    [
        (MINUTES + NOISE * 5, MINUTES, REGRESSION),
        (MINUTES + NOISE, LATE, Output("classification", (0, 1))),
        (np.arange(ROWS).astype(str), LATE, Output("classification", (0, 1))),
        (np.ones(ROWS), LATE, Output("classification", (0, 1))),
        (MINUTES, np.zeros(ROWS, int), Output("classification", (0, 1))),
        (MINUTES, (MINUTES > np.sort(MINUTES)[-10]).astype(int), Output("classification", (0, 1))),
    ],
)
def test_a_good_feature_is_no_leak(column: Any, labels: Any, output: Output) -> None:
    """Strong, an id for each row, constant, one class only, a class of nine rows."""
    check_leakage(pd.DataFrame({"strong": column}), checked_labels(output, labels, ROWS), output, ())


def test_real_data_does_not_look_like_a_leak() -> None:
    """scikit-learn's own sets, the iris' separable pair of classes aside."""
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine

    for load, output in (
        (load_diabetes, REGRESSION),
        (load_iris, Output("classification", (0, 1, 2))),
        (load_wine, Output("classification", (0, 1, 2))),
        (load_breast_cancer, Output("classification", (0, 1))),
    ):
        X, y = load(return_X_y=True, as_frame=True)
        check_leakage(X, checked_labels(output, y, len(X)), output, ())


def test_errors_are_ours() -> None:
    """Everything above is one of the platform's errors, so that the command line prints it as such."""
    assert issubclass(ContractViolation, PereneError)
