"""Who was exposed to which arm of an experiment, since when, and how likely that was: read off the event log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monitoring.lake.lake import Lake
from monitoring.lake.lake_tables import TIME
from registry.routing import salt_of

if TYPE_CHECKING:
    from registry.ledger import Deployment

__all__ = ["SCHEMA", "drawn_by", "exposures", "propensities"]

SCHEMA: Final = pa.schema(
    [
        ("unit", pa.string()),
        ("entity", pa.bool_()),
        ("first", TIME),
        ("arm", pa.string()),
        ("version", pa.int64()),
        ("deployment", pa.int64()),
        ("propensity", pa.float64()),
    ]
)
_READ: Final = ("_id", "_at", "_entity", "_deployment", "_assigned")
Drawn = Mapping[int, Mapping[int, float]]
"""By revision of a deployment, the share of each version that it draws."""


def propensities(deployment: Deployment) -> dict[int, float]:
    """The share of entities that a deployment draws each version for, the champion's too; nothing where it draws none.

    Exact: nothing but the row decides.
    """
    if deployment.candidate is None or deployment.mode not in ("ab", "canary"):
        return {}
    arms = deployment.routing.arms if deployment.routing is not None else ()
    found = {arm.version: arm.weight for arm in arms} or {deployment.candidate: deployment.weight}
    return {deployment.champion: max(0.0, 1.0 - sum(found.values())), **found}


def drawn_by(history: Iterable[Deployment], experiment_id: str) -> dict[int, dict[int, float]]:
    """The deployments that drew for an experiment: those with its salt."""
    mine = (deployment for deployment in history if deployment.salt == salt_of(experiment_id))
    return {deployment.revision: shares for deployment in mine if (shares := propensities(deployment))}


def exposures(lake: Lake, model: str, drawn: Drawn, *, champion: int) -> pa.Table:
    """The first exposure of each unit to each version that was drawn for it, oldest first, as `SCHEMA` says.

    A unit is an entity's pseudonym, or a prediction where no entity was given. Whoever a ramp moved has a row of each
    arm. The arm is the one that was drawn, also where the candidate failed and the champion answered; pinned versions
    and segments were not drawn. `propensity` is the share of the drawn version at the first exposure.

    Args:
        lake: holds the events.
        model: name of the model.
        drawn: the experiment's deployments, from `drawn_by`.
        champion: the version that the experiment compares with.
    """
    table = lake.read(model, "prediction", columns=_READ)
    if not drawn or not table.num_rows:
        return SCHEMA.empty_table()
    mine = pc.is_in(table.column("_deployment"), value_set=pa.array(sorted(drawn), pa.int64()))
    table = table.filter(pc.and_(mine, pc.is_valid(table.column("_assigned"))))
    given = pc.not_equal(pc.fill_null(table.column("_entity"), ""), "")
    unit = pc.if_else(given, table.column("_entity"), table.column("_id")).combine_chunks()
    code = unit.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    version = table.column("_assigned").to_numpy(zero_copy_only=False).astype(np.int64)
    # rows are in the order of time: the first of each pair is its first exposure
    _, first = np.unique(np.stack([code, version]), axis=1, return_index=True)
    first.sort()
    revision = table.column("_deployment").to_numpy(zero_copy_only=False).astype(np.int64)[first]
    version, place = version[first], pa.array(first)
    shares = [drawn[int(r)].get(int(v)) for r, v in zip(revision, version, strict=True)]
    columns = [
        unit.take(place),
        given.combine_chunks().take(place),
        table.column("_at").combine_chunks().take(place),
        pa.array(np.where(version == champion, "champion", "candidate")),
        pa.array(version),
        pa.array(revision),
        pa.array(shares, pa.float64()),
    ]
    return pa.table(columns, schema=SCHEMA)
