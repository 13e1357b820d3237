"""Trees, forests and boosted trees of scikit-learn."""

from __future__ import annotations

from sklearn import ensemble, tree

from tests.families import rows
from tests.families.making import case, numeric, unlabelled

CASES = (
    case("decision-tree", "DecisionTreeClassifier", lambda: tree.DecisionTreeClassifier(random_state=0), rows.cancer),
    case(
        "decision-tree-regressor",
        "DecisionTreeRegressor, nulls",
        lambda: tree.DecisionTreeRegressor(max_depth=8),
        lambda: numeric(rows.flights()),
    ),
    case(
        "random-forest",
        "RandomForestClassifier",
        lambda: ensemble.RandomForestClassifier(50, random_state=0),
        rows.digits,
    ),
    case(
        "random-forest-regressor",
        "RandomForestRegressor",
        lambda: ensemble.RandomForestRegressor(50, random_state=0),
        rows.weather,
    ),
    case(
        "random-forest-nulls",
        "RandomForestClassifier, nulls, text classes",
        lambda: ensemble.RandomForestClassifier(30, random_state=0),
        lambda: numeric(rows.late()),
    ),
    case("extra-trees", "ExtraTreesClassifier", lambda: ensemble.ExtraTreesClassifier(50, random_state=0), rows.wine),
    case(
        "extra-trees-regressor",
        "ExtraTreesRegressor",
        lambda: ensemble.ExtraTreesRegressor(50, random_state=0),
        rows.diabetes,
    ),
    case(
        "gradient-boosting",
        "GradientBoostingClassifier",
        lambda: ensemble.GradientBoostingClassifier(n_estimators=50, random_state=0),
        rows.cancer,
    ),
    case(
        "gradient-boosting-multiclass",
        "GradientBoostingClassifier, 3 classes",
        lambda: ensemble.GradientBoostingClassifier(n_estimators=30, random_state=0),
        rows.wine,
    ),
    case(
        "gradient-boosting-exponential",
        "GradientBoostingClassifier (exponential)",
        lambda: ensemble.GradientBoostingClassifier(loss="exponential", n_estimators=30, random_state=0),
        rows.cancer,
    ),
    case(
        "gradient-boosting-regressor",
        "GradientBoostingRegressor",
        lambda: ensemble.GradientBoostingRegressor(random_state=0),
        rows.weather,
    ),
    case("adaboost", "AdaBoostClassifier", lambda: ensemble.AdaBoostClassifier(random_state=0), rows.cancer),
    case(
        "adaboost-multiclass",
        "AdaBoostClassifier, 3 classes",
        lambda: ensemble.AdaBoostClassifier(random_state=0),
        rows.wine,
    ),
    case("adaboost-regressor", "AdaBoostRegressor", lambda: ensemble.AdaBoostRegressor(random_state=0), rows.diabetes),
    case(
        "isolation-forest",
        "IsolationForest: scores",
        lambda: ensemble.IsolationForest(n_estimators=50, random_state=0),
        unlabelled(rows.cancer),
    ),
    case(
        "isolation-forest-contamination",
        "IsolationForest (contamination, max_features)",
        lambda: ensemble.IsolationForest(n_estimators=50, contamination=0.05, max_features=0.5, random_state=0),
        unlabelled(rows.weather),
    ),
)
