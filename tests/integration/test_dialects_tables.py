"""Arrow and Parquet bodies: the same answers, events and refusals, and none that costs more than its bytes say."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monitoring.intake.events import PredictionEvent
from tests.integration.dialect_models import CONTRACTS, rows_of
from tests.integration.serving_app import metrics, run
from tests.integration.serving_toy import Cache, Served, serving, stored_events

ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
Write = Callable[..., bytes]


def arrow(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=7)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def table_of(name: str, count: int = 17) -> pa.Table:
    kinds = {"float": pa.float64(), "int": pa.int64(), "bool": pa.bool_(), "string": pa.string()}
    contract = CONTRACTS[name]
    schema = pa.schema([(column.name, kinds[column.dtype]) for column in contract.columns])
    return pa.Table.from_pylist(rows_of(contract, count), schema)


async def sent(served: Served, path: str, content: bytes, media: str, **headers: str) -> Any:
    return await served.client.post(path, content=content, headers={"content-type": media, **headers})


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_tables_answer_as_rows_do(name: str, every: tuple[Cache, str]) -> None:
    """Both formats on both routes, by JSON and by Arrow; events are the same too."""
    cache, key = every
    rows, table = rows_of(CONTRACTS[name], 17), table_of(name)

    async def scenario() -> None:
        async with serving(cache, key, default_model=name) as served:
            own = (await served.client.post(f"/models/{name}/predict", json={"rows": rows})).json()
            beside = "scores" if "scores" in own else "probabilities"
            for media, content in ((ARROW, arrow(table)), (PARQUET, parquet(table))):
                for path in (f"/models/{name}/predict", f"/models/{name}/versions/1/predict", "/invocations"):
                    reply = await sent(served, path, content, media)
                    assert reply.status_code == 200, reply.text
                    assert reply.json()["predictions"] == own["predictions"]
                    assert reply.json().get(beside) == own.get(beside)
                reply = await sent(served, "/predict", content, media, accept=ARROW)
                assert reply.headers["content-type"] == ARROW
                answer = pa.ipc.open_stream(reply.content).read_all()
                assert answer.column("prediction").to_pylist() == own["predictions"]
                if beside in own:
                    assert answer.column(beside).to_pylist() == own[beside]
                assert answer.column("prediction_id")[0].as_py() == reply.headers["x-prediction-id"]
            spool = served.spool.path
        events = [e for e in stored_events(spool) if isinstance(e, PredictionEvent)]
        assert len(events) == 9 * 17
        assert [e.features for e in events] == [e.features for e in events[:17]] * 9

    run(scenario)


def test_columns_of_every_type_that_holds_the_same(every: tuple[Cache, str]) -> None:
    """Narrow numbers, dictionaries, large text and views; in any order, with an index of pandas beside."""
    cache, key = every
    rows, table = rows_of(CONTRACTS["words"], 17), table_of("words")
    hour, text = table.column("hour"), table.column("carrier")
    changed = [
        table.set_column(2, "hour", hour.cast(pa.int8())),
        table.set_column(2, "hour", hour.cast(pa.float32())),
        table.set_column(1, "carrier", text.cast(pa.large_string())),
        table.set_column(1, "carrier", text.dictionary_encode()),
        table.set_column(1, "carrier", text.cast(pa.string_view())),
        table.set_column(0, "temp", table.column("temp").cast(pa.float32())),
        table.select(["gate", "late", "hour", "carrier", "temp"]),
        table.append_column("__index_level_0__", hour),
    ]

    async def scenario() -> None:
        async with serving(cache, key) as served:
            own = (await served.client.post("/models/words/predict", json={"rows": rows})).json()
            for n, one in enumerate(changed):
                bodies = [(ARROW, arrow(one))]
                if n != 4:  # Parquet has no views
                    bodies += [(PARQUET, parquet(one, compression=c)) for c in ("none", "snappy", "zstd", "gzip")]
                for media, content in bodies:
                    reply = await sent(served, "/models/words/predict", content, media)
                    assert reply.status_code == 200, (n, media, reply.text)
                    assert reply.json()["predictions"] == own["predictions"], (n, media)

    run(scenario)


def test_a_frame_of_pandas_goes_as_it_is(every: tuple[Cache, str]) -> None:
    """Written by pandas as MLflow's users do, sampled, with a column too many for MLflow's route alone."""
    cache, key = every
    rows = rows_of(CONTRACTS["regression"], 17)
    frame = pd.DataFrame(rows).sample(frac=1, random_state=0)
    frame["extra"] = 1

    async def scenario() -> None:
        async with serving(cache, key, default_model="regression") as served:
            reply = await sent(served, "/invocations", frame.to_parquet(), PARQUET)
            assert reply.json()["predictions"] == frame["hour"].astype(float).tolist()
            reply = await sent(served, "/predict", frame.to_parquet(), PARQUET)
            assert reply.status_code == 422
            assert reply.json()["error"]["where"] == "extra"

    run(scenario)


def test_ten_thousand_rows(every: tuple[Cache, str]) -> None:
    """All answered, and all in the spool."""
    cache, key = every
    table = table_of("words", 10_000)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            for media, content in ((ARROW, arrow(table)), (PARQUET, parquet(table))):
                reply = await sent(served, "/models/words/predict", content, media)
                assert len(reply.json()["predictions"]) == 10_000
            samples = await metrics(served)
            assert samples["perene_requests_total", ("words", "1", "champion", "arrow", "200")] == 2
            assert samples["perene_rows_total", ("words",)] == 20_000
            path = served.spool.path
        assert len(stored_events(path)) == 20_000

    run(scenario)


def bad_tables() -> list[tuple[str, str, bytes, int]]:
    table = table_of("words")
    good, packed = arrow(table), parquet(table)
    nested = table.set_column(0, "temp", pa.array([[1.0]] * 17))
    null = table.set_column(2, "hour", pa.array([None] * 17, pa.int64()))
    twice = pa.Table.from_arrays([*table.columns, table.column(0)], names=[*table.column_names, "temp"])
    cases = [
        ("null", null, 422),
        ("only null", table.set_column(2, "hour", pa.nulls(17)), 422),
        ("nested", nested, 422),
        ("missing", table.drop_columns(["hour"]), 422),
        ("unknown", table.append_column("extra", table.column(0)), 422),
        ("mis-cased", table.rename_columns(["temp", "carrier", "Hour", "late", "gate"]), 422),
        ("twice", twice, 422),
        ("no rows", table.slice(0, 0), 422),
        ("no columns", table.select([]), 422),
        ("fraction", table.set_column(2, "hour", pa.array([1.5] * 17)), 422),
        ("too large", table.set_column(2, "hour", pa.array([2**53 + 1] * 17)), 422),
        ("infinite", table.set_column(0, "temp", pa.array([float("inf")] * 17)), 422),
        ("beyond float32", table.set_column(0, "temp", pa.array([1e39] * 17)), 422),
        ("text for a number", table.set_column(2, "hour", pa.array(["1"] * 17)), 422),
        ("number for a text", table.set_column(1, "carrier", pa.array([1] * 17)), 422),
        ("number for a boolean", table.set_column(3, "late", pa.array([1] * 17)), 422),
        ("bytes for a text", table.set_column(1, "carrier", pa.array([b"x"] * 17)), 422),
        ("a time for a number", table.set_column(0, "temp", pa.array([0] * 17, pa.timestamp("s"))), 422),
        ("too many rows", table_of("words", 201), 413),
    ]
    made = [(f"{name}, Arrow", ARROW, arrow(one), status) for name, one, status in cases]
    made += [
        (f"{name}, Parquet", PARQUET, parquet(one), status)
        for name, one, status in cases
        if name not in ("twice", "no columns")
    ]
    made += [
        ("not Arrow", ARROW, b"ARROW1\0\0", 400),
        ("JSON as Arrow", ARROW, b'{"rows":[]}', 400),
        ("Parquet as Arrow", ARROW, packed, 400),
        ("Arrow as Parquet", PARQUET, good, 400),
        ("not Parquet", PARQUET, b"PAR1" * 10, 400),
        ("cut Parquet", PARQUET, packed[:-20], 400),
        ("a hole in Parquet", PARQUET, packed[:4] + packed[-300:], 400),
        ("compressed Arrow", ARROW, arrow(table, compression="zstd"), 400),
        ("compressed Arrow, LZ4", ARROW, arrow(table.drop_columns(["temp"]), compression="lz4"), 400),
    ]
    made += [
        (
            "repeated texts",
            PARQUET,
            parquet(table, use_dictionary=False, column_encoding={"carrier": "DELTA_BYTE_ARRAY"}),
            400,
        )
    ]
    return made


def test_bad_tables_are_refused_and_documented(every: tuple[Cache, str]) -> None:
    """Each with its status, small; and the service answers the next request."""
    cache, key = every

    async def scenario() -> None:
        async with serving(cache, key, max_rows=200) as served:
            document = (await served.client.get("/openapi.json")).json()
            documented = document["paths"]["/models/words/predict"]["post"]
            assert {ARROW, PARQUET} <= set(documented["requestBody"]["content"])
            for name, media, content, status in bad_tables():
                reply = await sent(served, "/models/words/predict", content, media)
                assert reply.status_code == status, (name, reply.text)
                assert str(status) in documented["responses"]
                assert len(reply.content) < 16 * 1024
                assert reply.json()["error"]["request_id"] == reply.headers["x-request-id"]
            assert (await sent(served, "/models/words/predict", arrow(table_of("words")), ARROW)).status_code == 200

    run(scenario)


def bombs() -> list[tuple[str, str, bytes]]:
    """Small bodies that say, or become, a lot."""
    table = table_of("words", 1_000)
    zeros = pa.array(["\0" * 2_000_000] * 10, pa.large_string())
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000, pa.int32()), pa.array(["x" * 50_000]))
    made = []
    for compression in ("zstd", "gzip", "snappy", "brotli"):
        few = table.slice(0, 10).set_column(1, "carrier", zeros)
        made.append((f"{compression} pages", PARQUET, parquet(few, compression=compression, use_dictionary=False)))
    made.append(("shared text, Arrow", ARROW, arrow(table.set_column(1, "carrier", shared))))
    made.append(("shared text, Parquet", PARQUET, parquet(table.set_column(1, "carrier", shared), compression="zstd")))
    return made


def test_what_unpacks_to_too_much_is_refused_before_it_is_unpacked(every: tuple[Cache, str]) -> None:
    """413, with no more memory than a few times the body's limit; the control is what PyArrow would take for it."""
    cache, key = every
    process = psutil.Process()
    sent_bodies = bombs()
    control = pq.read_table(io.BytesIO(sent_bodies[0][2]))
    assert control.nbytes > 20_000_000
    del control
    pa.default_memory_pool().release_unused()

    async def scenario() -> None:
        async with serving(cache, key) as served:
            for name, media, content in sent_bodies:
                assert len(content) < 8 * 1024 * 1024, name
                before = pa.default_memory_pool().bytes_allocated(), process.memory_info().rss
                reply = await sent(served, "/models/words/predict", content, media)
                assert reply.status_code == 413, (name, reply.text)
                assert process.memory_info().rss - before[1] < 16 * 1024 * 1024, name
                assert pa.default_memory_pool().bytes_allocated() - before[0] < 16 * 1024 * 1024, name

    run(scenario)


def test_a_footer_that_ends_pyarrows_process_is_refused(every: tuple[Cache, str]) -> None:
    """A depth that does not fit a column's statistics: PyArrow's own reader of metadata aborts on it (the control)."""
    cache, key = every
    whole = parquet(table_of("words"))
    # the footer says of each column that may be null that it is OPTIONAL, which is 1: now `hour` must not be
    places = [n for n in range(len(whole)) if whole.startswith(b"\x25\x02\x18\x04hour", n)]
    content = whole.replace(b"\x25\x02\x18\x04hour", b"\x25\x00\x18\x04hour")
    assert len(places) == 1
    script = (
        "import io, sys, pyarrow.parquet as pq\n"
        "group = pq.ParquetFile(io.BytesIO(sys.stdin.buffer.read())).metadata.row_group(0)\n"
        "print([group.column(n).physical_type for n in range(5)])"
    )
    for body, code in ((whole, 0), (content, -signal.SIGABRT)):
        control = subprocess.run([sys.executable, "-c", script], input=body, capture_output=True, check=False)
        assert control.returncode == code, control.stderr

    async def scenario() -> None:
        async with serving(cache, key) as served:
            assert (await sent(served, "/models/words/predict", content, PARQUET)).status_code == 400

    run(scenario)


@pytest.mark.parametrize("media", [ARROW, PARQUET])
def test_damaged_bytes_are_answered(media: str, every: tuple[Cache, str]) -> None:
    """One byte changed anywhere, or a piece cut out: an answer or a refusal of ours, and the process lives."""
    cache, key = every
    table = table_of("words", 3)
    whole = arrow(table) if media == ARROW else parquet(table)
    chosen = np.random.default_rng(0)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            for _ in range(400):
                content = bytearray(whole)
                place = int(chosen.integers(len(content)))
                if chosen.random() < 0.8:
                    content[place] ^= int(chosen.integers(1, 256))
                else:
                    del content[place : place + int(chosen.integers(1, 64))]
                reply = await sent(served, "/models/words/predict", bytes(content), media)
                assert reply.status_code in (200, 400, 413, 422), (bytes(content), reply.text)
                json.loads(reply.content)

    run(scenario)
