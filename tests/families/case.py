"""A family of estimators, fitted on real rows, and how it is expected to be served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

Made = tuple[Any, pd.DataFrame, Any]
"""A fitted estimator, real rows and their labels."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table in `docs/models.md`.

    `needs` names an optional package; `note` says in one line why the family is refused or native.
    """

    key: str
    title: str
    make: Callable[[], Made]
    expect: Literal["onnx", "native", "refused"] = "onnx"
    needs: str = ""
    note: str = ""
