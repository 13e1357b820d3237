"""Ensembles, calibration, thresholds and searches of scikit-learn."""

from __future__ import annotations

from sklearn import calibration, ensemble, linear_model, model_selection, multiclass, naive_bayes, svm, tree

from tests.families import rows
from tests.families.making import case, scaled

CASES = (
    case(
        "bagging",
        "BaggingClassifier (trees, some columns)",
        lambda: ensemble.BaggingClassifier(max_features=0.5, random_state=0),
        rows.cancer,
    ),
    case(
        "bagging-regressor",
        "BaggingRegressor (linear)",
        lambda: ensemble.BaggingRegressor(linear_model.Ridge(), random_state=0),
        rows.diabetes,
    ),
    case(
        "voting",
        "VotingClassifier (soft, weights)",
        lambda: ensemble.VotingClassifier(
            [
                ("l", scaled(linear_model.LogisticRegression())),
                ("t", ensemble.RandomForestClassifier(20, random_state=0)),
                ("n", naive_bayes.GaussianNB()),
            ],
            voting="soft",
            weights=[2, 1, 1],
        ),
        rows.cancer,
    ),
    case(
        "voting-regressor",
        "VotingRegressor",
        lambda: ensemble.VotingRegressor([("r", linear_model.Ridge()), ("t", tree.DecisionTreeRegressor(max_depth=5))]),
        rows.diabetes,
    ),
    case(
        "stacking",
        "StackingClassifier (passthrough)",
        lambda: ensemble.StackingClassifier(
            [("s", scaled(svm.SVC())), ("t", tree.DecisionTreeClassifier(max_depth=4))],
            scaled(linear_model.LogisticRegression()),
            passthrough=True,
            cv=3,
        ),
        rows.wine,
    ),
    case(
        "stacking-regressor",
        "StackingRegressor",
        lambda: ensemble.StackingRegressor(
            [("r", linear_model.Ridge()), ("t", tree.DecisionTreeRegressor(max_depth=4))], cv=3
        ),
        rows.diabetes,
    ),
    case(
        "calibrated-sigmoid",
        "CalibratedClassifierCV (sigmoid)",
        lambda: calibration.CalibratedClassifierCV(scaled(svm.LinearSVC()), cv=3),
        rows.wine,
    ),
    case(
        "calibrated-isotonic",
        "CalibratedClassifierCV (isotonic)",
        lambda: calibration.CalibratedClassifierCV(
            ensemble.RandomForestClassifier(20, random_state=0), method="isotonic", cv=3
        ),
        rows.cancer,
    ),
    case(
        "calibrated-isotonic-multiclass",
        "CalibratedClassifierCV (isotonic), 10 classes",
        lambda: calibration.CalibratedClassifierCV(
            ensemble.RandomForestClassifier(20, random_state=0), method="isotonic", cv=3
        ),
        rows.digits,
    ),
    case(
        "calibrated-temperature",
        "CalibratedClassifierCV (temperature)",
        lambda: calibration.CalibratedClassifierCV(
            scaled(linear_model.LogisticRegression()), method="temperature", cv=3
        ),
        rows.wine,
    ),
    case(
        "tuned-threshold",
        "TunedThresholdClassifierCV",
        lambda: model_selection.TunedThresholdClassifierCV(
            scaled(linear_model.LogisticRegression()), scoring="f1", cv=3
        ),
        rows.cancer,
    ),
    case(
        "fixed-threshold",
        "FixedThresholdClassifier",
        lambda: model_selection.FixedThresholdClassifier(naive_bayes.GaussianNB(), threshold=0.9),
        rows.cancer,
    ),
    case(
        "one-vs-rest",
        "OneVsRestClassifier",
        lambda: multiclass.OneVsRestClassifier(scaled(linear_model.LogisticRegression())),
        rows.wine,
    ),
    case(
        "grid-search",
        "GridSearchCV",
        lambda: model_selection.GridSearchCV(tree.DecisionTreeClassifier(random_state=0), {"max_depth": [2, 4]}, cv=3),
        rows.iris,
    ),
    case(
        "output-code",
        "OutputCodeClassifier",
        lambda: multiclass.OutputCodeClassifier(linear_model.LogisticRegression(max_iter=500), random_state=0),
        rows.iris,
        expect="refused",
        note="neither probabilities nor scores",
    ),
    case(
        "voting-hard",
        "VotingClassifier (hard)",
        lambda: ensemble.VotingClassifier(
            [("t", tree.DecisionTreeClassifier(max_depth=4)), ("n", naive_bayes.GaussianNB())]
        ),
        rows.wine,
        expect="refused",
        note="neither probabilities nor scores: vote softly",
    ),
)
