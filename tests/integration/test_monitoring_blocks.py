"""Answers travel to the lake by columns, and what is there is what single events would have left."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from monitoring.intake.blocks import MANY, Answered, Block, Columns, block_of_answers, block_of_events, decode
from monitoring.intake.events import Arm, PredictionEvent, encoder
from monitoring.intake.ranges import Range, SpoolReader
from monitoring.intake.shipper import ship_once
from monitoring.intake.spool import Spool
from monitoring.lake.lake import Lake
from monitoring.lake.lake_tables import prediction_table
from registry.contract import Column, Contract, Output
from serving.decode import Decoder
from serving.dialects.json_rows import read_rows

COLUMNS = (
    Column("x", "float", nullable=True),
    Column("n", "int", nullable=True),
    Column("ok", "bool"),
    Column("city", "string", nullable=True),
    Column("email", "string", policy="hash"),
    Column("age", "int", policy="hash"),
    Column("secret", "float", policy="drop"),
)
OUTPUTS = {
    "regression": Output("regression"),
    "targets": Output("regression", targets=("a", "b")),
    "classes": Output("classification", ("no", "yes")),
}
NOON = 1_772_366_400.0
DAY = 86_400.0


def row(number: int) -> tuple[Any, ...]:
    x, city = None if number % 3 == 0 else number / 2, None if number % 5 == 0 else "Oslo"
    return (x, number, number % 2 == 0, city, "a@b", 40 + number, 1.5)


def answered(contract: Contract, first: int, count: int, **changes: Any) -> Answered:
    numbers = range(first, first + count)
    kind = contract.output.kind
    values = [[n / 4, 1 - n / 4] for n in numbers] if kind == "classification" or contract.output.targets else None
    given: dict[str, Any] = {
        "arm": "champion",
        "at": NOON + first,
        "entity": "me" if first % 2 else "",
        "latency_ms": 1.23456,
        "rows": [row(n) for n in numbers],
        "predictions": ["yes"] * count if kind == "classification" else [n / 2 for n in numbers],
        "values": values,
        **changes,
    }
    ids = [f"id-{n}" for n in numbers]
    return Answered(contract=contract, version=1, received=NOON, key="k", ids=ids, **given)


def kept(contract: Contract, values: tuple[Any, ...]) -> list[Any]:
    """The plain words of the policies."""
    found: list[Any] = []
    for column, value in zip(contract.columns, values, strict=True):
        hashed = None if value is None else hashlib.sha256(str(value).encode()).hexdigest()[:16]
        found.append({"store": value, "hash": hashed, "drop": None}[column.policy])
    return found


def events_of(given: Answered, first: int) -> list[tuple[int, PredictionEvent]]:
    """One event a row, as they were logged before there were blocks."""
    entity = hashlib.sha256(given.entity.encode()).hexdigest()[:16] if given.entity else ""
    found = []
    for n, identifier in enumerate(given.ids):
        values = given.values[n] if given.values else None
        answer = values[0] if given.contract.output.targets and values else given.predictions[n]
        features = [] if given.arm == "shadow" else kept(given.contract, given.rows[n])
        about = (given.at, given.received, given.contract.model, given.version, given.arm, entity, features)
        event = PredictionEvent(identifier, *about, answer, values, round(given.latency_ms, 3), given.key)
        event = msgspec.structs.replace(event, deployment=given.deployment, assigned=given.assigned)
        found.append((first + n, event))
    return found


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("arm", ["champion", "shadow"])
def test_a_block_leaves_what_its_events_would(output: str, arm: Arm) -> None:
    """Every column of the lake's table, over requests of one and of several rows, written and read again."""
    contract = Contract("m", COLUMNS, OUTPUTS[output])
    given = [
        answered(contract, first, rows, arm=arm, deployment=7, assigned=first % 3)
        for first, rows in ((1, 1), (2, 5), (7, 1), (20, 3))
    ]
    firsts = [1, 2, 7, 20]
    found = decode(encoder().encode(block_of_answers(firsts, given)))
    assert isinstance(found, Block)
    singles = [pair for a, first in zip(given, firsts, strict=True) for pair in events_of(a, first)]
    assert len(found) == len(singles) == 10
    table = prediction_table([found], "boot", contract)
    wanted = prediction_table([block_of_events(singles)], "boot", contract)
    assert table.schema == wanted.schema
    assert table.to_pylist() == wanted.to_pylist()


def test_blocks_of_earlier_versions_are_read() -> None:
    """They say neither deployment nor assignment: null in the lake, also beside blocks that do."""
    contract = Contract("m", COLUMNS[:4], Output("regression"))
    given = [answered(contract, n, 1, rows=[row(n)[:4]], deployment=5, assigned=n) for n in (1, 2)]
    old, new = (encoder().encode(block_of_answers([n], [a])) for n, a in zip((1, 2), given, strict=True))
    shorter = encoder().encode(msgspec.msgpack.decode(old)[:-2])
    both = [decode(shorter), decode(new)]
    assert all(isinstance(block, Block) for block in both)
    table = prediction_table(both, "boot", contract)  # type: ignore[arg-type]
    told = [(r["_deployment"], r["_assigned"], r["x"]) for r in table.to_pylist()]
    assert told == [(None, None, row(1)[0]), (5, 2, row(2)[0])]


def test_many_typed_rows_stay_columns() -> None:
    """Rows that came by columns leave the same table as the same rows one by one."""
    contract = Contract("m", COLUMNS, Output("regression"))
    count = MANY + 44
    names = contract.names
    rows = [dict(zip(names, row(n), strict=True)) for n in range(count)]
    batch = read_rows(Decoder(contract, max_rows=count), rows)
    assert isinstance(batch.rows, Columns)
    typed = answered(contract, 0, count, rows=batch.rows)
    plain = answered(contract, 0, count)
    block = block_of_answers([5], [typed])
    assert (typed.alone, plain.alone) == (True, False)
    assert [type(column) for column in block.features[:4]] == [bytes, bytes, bytes, list]
    tables = [prediction_table([b], "boot", contract).to_pylist() for b in (block, block_of_answers([5], [plain]))]
    assert tables[0] == tables[1]


def test_a_block_of_several_days_is_parted_by_request(tmp_path: Path) -> None:
    """Event times of one block may lie on several days: each row is in its day's file, once."""
    contract = Contract("m", COLUMNS[:4], Output("regression"))
    given = [
        answered(contract, first, rows, at=NOON + day * DAY, rows=[row(n)[:4] for n in range(first, first + rows)])
        for first, rows, day in ((1, 2, 0), (3, 1, 1), (4, 300, 0))
    ]
    lake = Lake(tmp_path)
    block = block_of_answers([1, 3, 4], given)
    packed = {
        n: np.array([math.nan if v is None else v for v in c], "<f8").tobytes()
        for n, c in enumerate(block.features[:3])
        if c
    }
    for some in (block, decode(encoder().encode(block_with(block, packed)))):
        files = lake.write([(1, some)], boot="b", first=1, last=1, contracts={("m", 1): contract})
        assert len(files) == 2
        table = lake.read("m", "prediction")
        assert sorted(table.column("_seq").to_pylist()) == list(range(1, 304))
        by_number = {r["_seq"]: (r["x"], r["n"], r["ok"], r["city"]) for r in table.to_pylist()}
        assert by_number == {n: row(n)[:4] for n in range(1, 304)}


def block_with(block: Block, features: dict[int, bytes]) -> Block:
    columns = [features.get(n, column) for n, column in enumerate(block.features)]
    return msgspec.structs.replace(block, features=columns)


def test_loss_is_counted_by_rows(tmp_path: Path) -> None:
    """Of requests that go together, one that cannot be written is lost alone, with all of its rows."""
    contract = Contract("m", COLUMNS, Output("regression"))
    bad: Any = answered(contract, 2, 3, predictions=[object()] * 3)
    with Spool.open(tmp_path, commit_interval_s=60) as spool:
        spool.append(answered(contract, 1, 1))
        spool.append(bad)
        spool.append(answered(contract, 5, 2))
        spool.append_durable([]).result(60)
        stats = spool.stats()
        assert (stats.stored, stats.pending, stats.lost) == (3, 0, {"invalid": 3})
        reader = SpoolReader(spool.path)
        blocks = [decode(body) for _, body in reader.rows(Range(0, 100))]
        reader.close()
    found = [
        n
        for b in blocks
        if isinstance(b, Block)
        for f, rows in zip(b.first, b.rows, strict=True)
        for n in range(f, f + rows)
    ]
    assert found == [1, 5, 6]
    spool.append(answered(contract, 7, 4))
    assert spool.stats().lost == {"invalid": 3, "closed": 4}


def test_interleaved_versions_ship_each_row_once(tmp_path: Path) -> None:
    """Champion, candidate and shadow answers alternate in one spool: numbers are consecutive and none is missing."""
    contract = Contract("m", COLUMNS, Output("regression"))
    lake = Lake(tmp_path / "lake")
    with Spool.open(tmp_path / "spool") as spool:
        spool.register("m", 1, contract.to_dict())
        for n in range(200):
            arm: Arm = "shadow" if n % 3 == 0 else "champion"
            spool.append(answered(contract, n, 1, arm=arm))
    moved = ship_once(tmp_path / "spool", lake, min_rows=1, max_age_s=0, now=0)
    tables = [lake.read("m", kind, columns=["_seq", "_id"]) for kind in ("prediction", "shadow")]
    assert moved == 200
    assert [t.num_rows for t in tables] == [133, 67]
    both = pa.concat_tables(tables).to_pylist()
    assert sorted((r["_seq"], r["_id"]) for r in both) == [(n + 1, f"id-{n}") for n in range(200)]
    assert json.dumps(tables[0].column("_seq").to_pylist()) == json.dumps(sorted(tables[0].column("_seq").to_pylist()))
