"""store, hash and drop from the wire to the lake: what a policy keeps out is in no file, whichever way a row came."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc.aio
import pyarrow.parquet as pq
import pytest

from monitoring.intake.pseudonyms import load_pseudonyms
from monitoring.reading.api import events
from registry.contract import Contract, Output, Policy
from tests.acceptance.test_serving_process import WAIT_S, Server, until
from tests.integration.dialect_models import COLUMNS, make_bundle
from tests.integration.serving_toy import Cache
from tests.integration.test_dialects import binary_body, oip_inputs
from tests.integration.test_dialects_grpc import Client, infer_request
from tests.integration.test_dialects_tables import ARROW, PARQUET, arrow, parquet, table_of
from tests.ports import free_port

MODEL: Final = "policies"
POLICIES: Final[dict[str, Policy]] = {"temp": "drop", "carrier": "hash", "gate": "drop"}
CONTRACT: Final = Contract(
    MODEL,
    tuple(replace(column, policy=POLICIES.get(column.name, "store")) for column in COLUMNS),
    Output("regression"),
)
TEMP: Final = 8_675_309.25
"""A dropped number that nothing else is, exact in either width."""
WAYS: Final = ("json", "many", "kserve", "mlflow", "csv", "oip", "binary", "arrow", "parquet", "typed", "raw")


def row_of(way: str, number: int) -> dict[str, Any]:
    """A row whose texts are its way's alone."""
    return {
        "temp": TEMP,
        "carrier": f"hashed-canary-{way}-{number}",
        "hour": number % 24,
        "late": True,
        "gate": f"dropped-canary-{way}-{number}",
    }


@pytest.fixture
def cache(tmp_path: Path, toy_bundle: Path) -> Cache:
    made = Cache(tmp_path / "home" / "cache")
    made.add(1, make_bundle(toy_bundle, tmp_path / "bundle", CONTRACT), model=MODEL)
    return made


class Sender:
    """Sends rows each way."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def post(self, path: str, body: bytes, media: str, **headers: str) -> None:
        connection = self._server.connect()
        try:
            own = {"Authorization": f"Bearer {self._server.key}", "Content-Type": media, "X-Entity": "entity-canary"}
            connection.request("POST", path, body, {**own, **{k.replace("_", "-"): v for k, v in headers.items()}})
            reply = connection.getresponse()
            said = reply.read()
            assert reply.status == 200, said
        finally:
            connection.close()

    def send(self, way: str) -> int:
        """Every row of one way; how many."""
        rows = [row_of(way, number) for number in range(300 if way == "many" else 3)]
        predict, infer = f"/models/{MODEL}/predict", f"/v2/models/{MODEL}/infer"
        inputs = oip_inputs(CONTRACT, rows)
        match way:
            case "json" | "many":
                self.post(predict, json.dumps({"rows": rows, "entity": "entity-canary"}).encode(), "application/json")
            case "kserve":
                self.post(f"/v1/models/{MODEL}:predict", json.dumps({"instances": rows}).encode(), "application/json")
            case "mlflow":
                self.post("/invocations", json.dumps({"dataframe_records": rows}).encode(), "application/json")
            case "csv":
                lines = [",".join(rows[0]), *(",".join(str(v) for v in row.values()) for row in rows)]
                self.post("/invocations", "\n".join(lines).encode(), "text/csv")
            case "oip":
                self.post(infer, json.dumps({"inputs": inputs}).encode(), "application/json")
            case "binary":
                body, length = binary_body(inputs)
                self.post(infer, body, "application/octet-stream", inference_header_content_length=length)
            case "arrow" | "parquet":
                table = table_of("regression", 0).from_pylist(rows, table_of("regression", 0).schema)
                self.post(
                    predict, arrow(table) if way == "arrow" else parquet(table), ARROW if way == "arrow" else PARQUET
                )
            case _:
                request = infer_request("regression", rows, raw=way == "raw")
                request.model_name = MODEL
                asyncio.run(self._call(request.SerializeToString()))
        return len(rows)

    async def _call(self, request: bytes) -> None:
        settings = json.loads((self._server.home / "serve.json").read_text())
        async with grpc.aio.insecure_channel(f"127.0.0.1:{settings['grpc_port']}") as channel:
            await Client(channel, self._server.key).send("ModelInfer", request, x_entity="entity-canary")


def contents(home: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below the home; the columns of Parquet unpacked beside their bytes."""
    for path in sorted(path for path in home.rglob("*") if path.is_file() and "cache" not in path.parts):
        yield str(path.relative_to(home)), path.read_bytes()
        if path.suffix == ".parquet" and not path.name.startswith("."):
            yield f"{path.name} unpacked", json.dumps(pq.read_table(path).to_pylist(), default=str).encode()


def found(home: Path, canary: bytes) -> list[str]:
    """Files that hold it."""
    return [name for name, data in contents(home) if canary in data]


def test_what_a_policy_keeps_out_is_in_no_file(cache: Cache) -> None:
    """Eleven ways in; canaries in spool, WAL, journal, logs and lake; the stored column is the control."""
    key = cache.key({"predict"})
    cache.deploy(1, model=MODEL)
    home = cache.folder.parent
    port = free_port()
    slow = {"seal_seconds": 3_600.0, "seal_rows": 1_000_000}
    with Server(home, key, grpc_port=port, default_model=MODEL, queue={"seconds": 60}, **slow) as server:
        server.ready()
        sender = Sender(server)
        sent = sum(sender.send(way) for way in WAYS)
        secrets = [b"dropped-canary", b"hashed-canary", b"entity-canary", key.encode()]
        secrets += [struct.pack(form, TEMP) for form in ("<d", ">d", "<f", ">f")] + [b"8675309"]
        digest = load_pseudonyms(home)
        kept = digest("hashed-canary-json-0").encode()
        until(lambda: any("spool" in name for name in found(home, kept)), "the hash is not in the spool")
        waiting = {canary: found(home, canary) for canary in secrets}
        server.process.terminate()
        assert server.process.wait(WAIT_S) == 0
    assert waiting == {canary: [] for canary in secrets}
    assert {canary: found(home, canary) for canary in secrets} == {canary: [] for canary in secrets}
    assert any("unpacked" in name for name in found(home, kept))
    # nor what anybody with a list of likely values could look up
    assert found(home, hashlib.sha256(b"hashed-canary-json-0").hexdigest()[:16].encode()) == []
    frame = events(home / "events", MODEL)
    assert len(frame) == sent
    assert {"temp", "gate"} & set(frame.columns) == set()
    every = [row_of(way, number) for way in WAYS for number in range(300 if way == "many" else 3)]
    assert sorted(frame["carrier"]) == sorted(digest(row["carrier"]) for row in every)
    assert math.isclose(frame["hour"].sum(), sum(row["hour"] for row in every))
    assert set(frame["_entity"]) <= {digest("entity-canary"), ""}
