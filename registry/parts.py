"""What is inside a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator


def parts(estimator: Any) -> Iterator[Any]:
    """Every estimator inside `estimator`, itself first: steps, transformers, members of ensembles."""
    seen: set[int] = set()
    queue: list[Any] = [estimator]
    while queue:
        part = queue.pop(0)
        if id(part) in seen or isinstance(part, (str, bytes)):
            continue
        if isinstance(part, (list, tuple)):
            queue.extend(part)
            continue
        if isinstance(part, np.ndarray) and part.dtype == object:
            queue.extend(part.ravel())
            continue
        if not isinstance(part, BaseEstimator):
            continue
        seen.add(id(part))
        yield part
        queue.extend(vars(part).values())
