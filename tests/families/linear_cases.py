"""Linear models of scikit-learn."""

from __future__ import annotations

from sklearn import discriminant_analysis, linear_model, svm

from tests.families import rows
from tests.families.making import case, scaled

CASES = (
    case("linear-regression", "LinearRegression", linear_model.LinearRegression, rows.diabetes),
    case("ridge", "Ridge", linear_model.Ridge, rows.weather),
    case("ridge-cv", "RidgeCV", linear_model.RidgeCV, rows.diabetes),
    case("lasso", "Lasso", lambda: linear_model.Lasso(alpha=0.1), rows.diabetes),
    case("elastic-net", "ElasticNet", lambda: linear_model.ElasticNet(alpha=0.01), rows.diabetes),
    case("bayesian-ridge", "BayesianRidge", linear_model.BayesianRidge, rows.diabetes),
    case("huber", "HuberRegressor", lambda: scaled(linear_model.HuberRegressor()), rows.diabetes),
    case("quantile", "QuantileRegressor", lambda: linear_model.QuantileRegressor(alpha=0.001), rows.diabetes),
    case("poisson", "PoissonRegressor (log link)", lambda: scaled(linear_model.PoissonRegressor()), rows.weather),
    case("gamma", "GammaRegressor (log link)", lambda: scaled(linear_model.GammaRegressor()), rows.weather),
    case(
        "tweedie", "TweedieRegressor (log link)", lambda: scaled(linear_model.TweedieRegressor(power=1.5)), rows.weather
    ),
    case("sgd-regressor", "SGDRegressor", lambda: scaled(linear_model.SGDRegressor(random_state=0)), rows.diabetes),
    case("linear-svr", "LinearSVR", lambda: scaled(svm.LinearSVR(random_state=0)), rows.diabetes),
    case("ransac", "RANSACRegressor", lambda: linear_model.RANSACRegressor(random_state=0), rows.diabetes),
    case("logistic-regression", "LogisticRegression", lambda: scaled(linear_model.LogisticRegression()), rows.cancer),
    case(
        "logistic-multiclass",
        "LogisticRegression, 10 classes",
        lambda: scaled(linear_model.LogisticRegression(tol=0.01)),
        rows.digits,
    ),
    case(
        "logistic-cv",
        "LogisticRegressionCV",
        lambda: scaled(linear_model.LogisticRegressionCV(Cs=3, l1_ratios=(0.0,), use_legacy_attributes=False)),
        rows.wine,
    ),
    case(
        "sgd-log-loss",
        "SGDClassifier (log_loss)",
        lambda: scaled(linear_model.SGDClassifier(loss="log_loss", random_state=0)),
        rows.wine,
    ),
    case(
        "sgd-huber",
        "SGDClassifier (modified_huber)",
        lambda: scaled(linear_model.SGDClassifier(loss="modified_huber", random_state=0)),
        rows.cancer,
    ),
    case(
        "sgd-hinge",
        "SGDClassifier (hinge): scores",
        lambda: scaled(linear_model.SGDClassifier(random_state=0)),
        rows.cancer,
    ),
    case("perceptron", "Perceptron: scores", lambda: scaled(linear_model.Perceptron(random_state=0)), rows.wine),
    case("ridge-classifier", "RidgeClassifier: scores", linear_model.RidgeClassifier, rows.cancer),
    case("linear-svc", "LinearSVC: scores", lambda: scaled(svm.LinearSVC(random_state=0)), rows.wine),
    case("lda", "LinearDiscriminantAnalysis", discriminant_analysis.LinearDiscriminantAnalysis, rows.wine),
    case("qda", "QuadraticDiscriminantAnalysis", discriminant_analysis.QuadraticDiscriminantAnalysis, rows.iris),
)
