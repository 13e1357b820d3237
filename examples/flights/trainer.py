"""Plain training functions: a frame in, a fitted scikit-learn pipeline out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from examples.flights.data import features
from examples.flights.source import STRINGS

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline

TREES = 100
LEAVES = 31
SEED = 2013


def train(frame: pd.DataFrame) -> Pipeline:
    """Minutes in the air, by least squares."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(
        max_iter=TREES, max_leaf_nodes=LEAVES, early_stopping=False, random_state=SEED
    )
    return _pipeline(model).fit(frame[features], frame["air_time"])


def train_late(frame: pd.DataFrame) -> Pipeline:
    """Whether a flight arrives more than 15 minutes late (classes 0 and 1)."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    # small steps: on-time flights are noisy, and more leaves or larger steps learn the season by heart
    model = HistGradientBoostingClassifier(
        max_iter=TREES, max_leaf_nodes=15, learning_rate=0.05, early_stopping=False, random_state=SEED
    )
    return _pipeline(model).fit(frame[features], frame["late"])


def _pipeline(model: Any) -> Pipeline:
    """Text as ordinals, numbers and their gaps as they are.

    The trees get plain numbers, because the public converter translates native categorical splits wrongly. No
    scaler either: it would round where trees compare. An unseen text becomes -1, left of every known one.
    """
    import numpy as np
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder

    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, dtype=np.float32)
    numbers = [name for name in features if name not in STRINGS]
    columns = ColumnTransformer([("text", ordinal, list(STRINGS)), ("numbers", "passthrough", numbers)])
    return Pipeline([("columns", columns), ("model", model)])
