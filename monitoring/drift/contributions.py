"""Contribution shift: which columns move the model's answers otherwise than they did, by Shapley values of samples.

A column may drift without weight, or not drift much and decide more than it did. Counts estimate that at once
(`monitoring.drift.cause`); this looks at real rows, and takes as long: it is for the process that makes reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from registry.bundle import Bundle
from registry.contract import Contract
from registry.errors import PereneError
from registry.explain.explainer import Explainer, Explanation
from registry.tensors import pack_frame

__all__ = ["FILE", "contribution_shift"]

FILE: Final = "contributions.json"
TREE_ROWS: Final = 200
"""Rows of each side where trees are read: milliseconds each."""
ASKED_ROWS: Final = 25
"""Where the model has to be asked about mixes of each row, up to half a second."""
_TWO: Final = 2


def contribution_shift(
    bundle: Bundle, reference: pa.Table, current: pa.Table, *, allow_pickle: bool = False, seed: int = 0
) -> dict[str, Any]:
    """What moved most, first: means and sizes of each column's contributions to the rows of both tables.

    Args:
        bundle: the version whose answers are explained.
        reference: recorded rows, or those that the version was accepted with.
        current: of the window.
        allow_pickle: whether a native model may be a pickle.
        seed: of the samples.

    Returns:
        `columns` with `moved` (by how much the mean contribution did, in the unit of `output`; none where rows are
        explained by the class that each was given) and `size_moved` (of mean absolute contributions), or a `reason`
        why there are none.
    """
    contract = bundle.contract
    lost = [
        c.name for c in contract.columns if c.name not in reference.column_names or c.name not in current.column_names
    ]
    hidden = [column.name for column in contract.columns if column.policy != "store"]
    if hidden or lost:
        return {"reason": f"column '{(hidden or lost)[0]}' is not kept", "columns": []}
    try:
        with closing(Explainer.of(bundle, allow_pickle=allow_pickle)) as explainer:
            most = TREE_ROWS if explainer.trees is not None else ASKED_ROWS
            old, new = (_explained(explainer, contract, table, most, seed) for table in (reference, current))
    except PereneError as error:
        return {"reason": error.message, "columns": []}
    # recorded rows of any age under a stranger's model: the report is made all the same
    except Exception as error:
        return {"reason": f"the rows cannot be explained ({type(error).__name__})", "columns": []}
    if not (old and new):
        return {"reason": "there are too few rows", "columns": []}
    return {
        "output": old[0].output,
        "method": new[0].method,
        "rows": {"reference": len(old), "window": len(new)},
        "columns": _compared(contract, old, new),
    }


def _explained(explainer: Explainer, contract: Contract, table: pa.Table, most: int, seed: int) -> list[Explanation]:
    if not table.num_rows:
        return []
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(table.num_rows, min(most, table.num_rows), replace=False))
    frame = table.select(contract.names).take(pa.array(chosen)).to_pandas()
    return explainer.explain(pack_frame(contract, frame))


def _compared(contract: Contract, old: Sequence[Explanation], new: Sequence[Explanation]) -> list[dict[str, Any]]:
    before, after = (np.array([one.attributions for one in side]) for side in (old, new))
    comparable = len(contract.output.classes) <= _TWO
    moved = _rounded(after.mean(0) - before.mean(0))
    sizes = [_rounded(np.abs(side).mean(0)) for side in (before, after)]
    found = [
        {
            "column": name,
            "moved": moved[n] if comparable else None,
            "size": sizes[0][n],
            "size_now": sizes[1][n],
            "size_moved": round(sizes[1][n] - sizes[0][n], 9),
        }
        for n, name in enumerate(contract.names)
    ]
    return sorted(found, key=lambda one: (-max(abs(one["moved"] or 0.0), abs(one["size_moved"])), one["column"]))


def _rounded(values: npt.NDArray[Any]) -> list[float]:
    return [round(float(value), 9) for value in values]
