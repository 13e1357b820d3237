"""Events as Arrow tables: the model's own columns typed by its contract, and ours with a leading underscore."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monitoring.intake.blocks import Block
from monitoring.intake.events import LabelEvent, value_text
from registry.contract import Column, Contract

__all__ = ["Kind", "empty_table", "label_table", "outcome_table", "prediction_table", "together", "unify"]

Kind = Literal["prediction", "shadow", "label", "outcome"]
Numbered = tuple[int, Any]
"""An event with its sequence number in the spool."""

TIME = pa.timestamp("us", tz="UTC")
_ARROW = {"float": pa.float64(), "int": pa.int64(), "bool": pa.bool_(), "string": pa.string()}
_LATEST_US = 253_402_300_799 * 1_000_000
"""Last second of the year 9999: what calendars, and so readers of the lake, can show."""

_PREDICTION_META = pa.schema(
    [
        ("_id", pa.string()),
        ("_at", TIME),
        ("_received", TIME),
        ("_model", pa.string()),
        ("_version", pa.int64()),
        ("_arm", pa.string()),
        ("_entity", pa.string()),
        ("_prediction", pa.float64()),
        ("_probabilities", pa.list_(pa.field("element", pa.float32()))),  # the name Parquet gives it back
        ("_latency_ms", pa.float64()),
        ("_key", pa.string()),
        ("_deployment", pa.int64()),
        ("_assigned", pa.int64()),
        ("_boot", pa.string()),
        ("_seq", pa.int64()),
    ]
)
_LABEL_META = pa.schema(
    [
        ("_id", pa.string()),
        ("_label", pa.float64()),
        ("_at", TIME),
        ("_received", TIME),
        ("_boot", pa.string()),
        ("_seq", pa.int64()),
    ]
)
_OUTCOME_META = pa.schema(
    [
        ("_id", pa.string()),
        ("_outcomes", pa.map_(pa.string(), pa.float64())),
        ("_at", TIME),
        ("_received", TIME),
        ("_boot", pa.string()),
        ("_seq", pa.int64()),
    ]
)
_META = {"prediction": _PREDICTION_META, "shadow": _PREDICTION_META, "label": _LABEL_META, "outcome": _OUTCOME_META}


def micros(seconds: float) -> int:
    """Unix seconds as microseconds, kept between 1970 and 9999; NaN is 1970."""
    return max(0, min(round(seconds * 1e6), _LATEST_US)) if abs(seconds) < 1e15 else 0


def empty_table(kind: Kind) -> pa.Table:
    """No rows, with our own columns."""
    return _META[kind].empty_table()


def _all_micros(seconds: Sequence[float]) -> pa.Array:
    """`micros` of each."""
    given = np.array(seconds, dtype=np.float64)
    sane = np.where(np.abs(given) < 1e15, given, 0.0)
    return pa.array(np.rint(sane * 1e6).clip(0, _LATEST_US).astype(np.int64)).cast(TIME)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _answers(values: Sequence[Any], contract: Contract | None) -> pa.Array:
    """Predictions or labels: numbers of a regression, text of a classification; without contract by their type."""
    if contract is not None:
        text = contract.output.kind == "classification"
    else:
        text = any(isinstance(value, str | bool) for value in values)
    if text:
        return pa.array([value_text(value) for value in values], pa.string())
    if set(map(type, values)) <= {float}:
        return pa.array(values, pa.float64())
    return pa.array([_number(value) for value in values], pa.float64())


def _fits(value: Any, kind: pa.DataType) -> bool:
    """Whether one value is of an Arrow type without changing it."""
    try:
        pa.array([value], kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return False
    return True


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """A feature column; a value of another type than the contract says becomes null, so one row stops nothing."""
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([value if _fits(value, kind) else None for value in values], kind)


def _features(blocks: Sequence[Block], contract: Contract | None) -> dict[str, pa.Array]:
    """One array per contract column that is kept; dropped columns are absent, hashed ones are text."""
    if contract is None or not any(block.features for block in blocks):
        return {}
    return {
        column.name: _feature(blocks, number, column)
        for number, column in enumerate(contract.columns)
        if column.policy != "drop"
    }


def _feature(blocks: Sequence[Block], number: int, column: Column) -> pa.Array:
    kind = pa.string() if column.policy == "hash" else _ARROW[column.dtype]
    parts: list[Any] = [block.features[number] if number < len(block.features) else None for block in blocks]
    if all(isinstance(part, list) for part in parts):
        return _column(list(chain.from_iterable(parts)), kind)
    made = (_cells(part, len(block), kind) for part, block in zip(parts, blocks, strict=True))
    return pa.concat_arrays(list(made))


def _cells(part: Any, count: int, kind: pa.DataType) -> pa.Array:
    """A column of one block: values, doubles with NaN for null, or nothing."""
    if part is None:
        return pa.nulls(count, kind)
    if isinstance(part, list):
        return _column(part, kind)
    doubles = np.frombuffer(part, dtype="<f8")
    missing = np.isnan(doubles)
    if kind != pa.float64():
        doubles = np.where(missing, 0, doubles).astype(kind.to_pandas_dtype())
    return pa.array(doubles, kind, mask=missing if missing.any() else None)


def _meta(rows: Sequence[Numbered], boot: str, getters: Iterable[tuple[str, Callable[[Any], Any]]]) -> dict[str, Any]:
    found: dict[str, Any] = {name: [get(event) for _, event in rows] for name, get in getters}
    return found | {"_boot": [boot] * len(rows), "_seq": [seq for seq, _ in rows]}


def prediction_table(blocks: Sequence[Block], boot: str, contract: Contract | None) -> pa.Table:
    """Served or shadow predictions of one model and version, by sequence number."""
    counts = np.fromiter(chain.from_iterable(block.rows for block in blocks), np.int64)
    rows = int(counts.sum())
    request = np.repeat(np.arange(len(counts)), counts)

    def of(name: str) -> list[Any]:
        return list(chain.from_iterable(getattr(block, name) for block in blocks))

    def of_requests(values: pa.Array) -> pa.Array:
        return values if rows == len(counts) else values.take(pa.array(request))

    firsts = np.array(of("first"), dtype=np.int64)
    # a row's number is its request's first one and its place among the request's rows
    numbers = firsts[request] + np.arange(rows) - (np.cumsum(counts) - counts)[request]
    probabilities = _PREDICTION_META.field("_probabilities").type
    meta = {
        "_id": pa.array(of("ids"), pa.string()),
        "_at": of_requests(_all_micros(of("at"))),
        "_received": of_requests(_all_micros(of("received"))),
        "_model": pa.repeat(blocks[0].model, rows),
        "_version": pa.repeat(pa.scalar(blocks[0].version, pa.int64()), rows),
        "_arm": of_requests(pa.array(of("arm"), pa.string())),
        "_entity": of_requests(pa.array(of("entity"), pa.string())),
        "_prediction": _answers(of("predictions"), contract),
        "_probabilities": pa.array(
            chain.from_iterable(b.probabilities or [None] * len(b) for b in blocks), probabilities
        )
        if any(b.probabilities for b in blocks)
        else pa.nulls(rows, probabilities),
        "_latency_ms": of_requests(pa.array(of("latency_ms"), pa.float64())),
        "_key": of_requests(pa.array(of("key"), pa.string())),
        "_deployment": of_requests(_versions(blocks, "deployment")),
        "_assigned": of_requests(_versions(blocks, "assigned")),
        "_boot": pa.repeat(boot, rows),
        "_seq": pa.array(numbers),
    }
    table = pa.table(_features(blocks, contract) | meta)
    if (np.diff(numbers) < 0).any():
        table = table.take(pc.sort_indices(table.column("_seq")))
    return table


def together(tables: Mapping[int, pa.Table]) -> list[tuple[list[int], pa.Table]]:
    """Predictions of several versions in one table, by sequence number; in more where an integer would be rounded."""
    found: list[tuple[list[int], pa.Table]] = []
    for version, table in tables.items():
        for place, (versions, whole) in enumerate(found):
            try:
                both = unify([whole, table], safe=True)
            except pa.ArrowInvalid:
                continue
            found[place] = [*versions, version], both.take(pc.sort_indices(both.column("_seq")))
            break
        else:
            found.append(([version], table))
    return found


def _versions(blocks: Sequence[Block], name: str) -> pa.Array:
    """A number of each request, null where it has none."""
    parts = (getattr(block, name) or [0] * len(block.rows) for block in blocks)
    found = np.fromiter(chain.from_iterable(parts), np.int64)
    return pa.array(found, mask=found == 0)


def label_table(rows: Sequence[tuple[int, LabelEvent]], boot: str, contract: Contract | None) -> pa.Table:
    """Labels of one model; `_id` is the id of the prediction they are about."""
    getters: list[tuple[str, Callable[[LabelEvent], Any]]] = [
        ("_id", lambda e: e.prediction_id),
        ("_label", lambda e: e.label),
        ("_at", lambda e: micros(e.at)),
        ("_received", lambda e: micros(e.received)),
    ]
    meta = _meta(rows, boot, getters)
    meta["_label"] = _answers(meta["_label"], contract)
    return pa.table(_arrays(meta, _LABEL_META))


def outcome_table(rows: Sequence[tuple[int, LabelEvent]], boot: str) -> pa.Table:
    """Named outcomes of one model, those of one feedback a row; `_id` is the prediction's."""
    getters: list[tuple[str, Callable[[LabelEvent], Any]]] = [
        ("_id", lambda e: e.prediction_id),
        ("_outcomes", lambda e: sorted((e.outcomes or {}).items())),
        ("_at", lambda e: micros(e.at)),
        ("_received", lambda e: micros(e.received)),
    ]
    return pa.table(_arrays(_meta(rows, boot, getters), _OUTCOME_META))


def _arrays(meta: dict[str, Any], schema: pa.Schema) -> dict[str, pa.Array]:
    """Plain lists as arrays of our types, in the order of the schema; arrays pass."""
    return {
        field.name: made if isinstance(made := meta[field.name], pa.Array) else pa.array(made, field.type)
        for field in schema
    }


def unify(tables: Sequence[pa.Table], *, safe: bool = False) -> pa.Table:
    """One table of several whose columns may differ; integers and floats meet as float, all else as text.

    Raises:
        pa.ArrowInvalid: an integer beyond 2^53 meets floats, and shall not be rounded: `safe`.
    """
    types: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for field in table.schema:
            if not pa.types.is_map(field.type):  # of one type always, under a name that a file changes
                types.setdefault(field.name, set()).add(field.type)
    numbers = {pa.int64(), pa.float64()}
    mixed = {name: pa.float64() if kinds <= numbers else pa.string() for name, kinds in types.items() if len(kinds) > 1}
    cast = [
        table.cast(pa.schema([f.with_type(mixed.get(f.name, f.type)) for f in table.schema]), safe=safe)
        for table in tables
    ]
    return pa.concat_tables(cast, promote_options="permissive")
