"""Parts of the serving tests: bundles with answers known by heart, a cache by hand, an application in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import onnx
from fastapi import FastAPI
from onnx import TensorProto, helper
from prometheus_client import CollectorRegistry

from monitoring.alerting.metrics import ServeMetrics
from monitoring.intake.blocks import Block, decode
from monitoring.intake.events import Event, PredictionEvent
from monitoring.intake.ranges import Range, SpoolReader
from monitoring.intake.spool import Spool
from registry.bundle import read_bundle, seal
from registry.keys import new_key
from registry.routing import Routing
from serving.app import create_app
from serving.settings import ExplainSettings, QueueSettings, ServingSettings, WebSettings
from serving.state import Deployed, Failure, Key, State, Stored, write_state

ANY_HOST: Final = WebSettings(allowed_hosts=("*",))
PATIENT: Final = QueueSettings(seconds=60)
PATIENT_TOO: Final = ExplainSettings(seconds=60)
"""Tests of other things call the server by any name, and are not refused because the machine is busy."""
ROW: dict[str, Any] = {"temp": 1.5, "hour": 7, "late": True, "carrier": "AA"}


def answer(offset: float, row: dict[str, Any]) -> float:
    """What `offset_bundle` predicts."""
    return float(row["hour"]) + offset


def offset_bundle(base: Path, to: Path, offset: float, *, model: str = "toy") -> Path:
    """A sound bundle: the prediction is `hour + offset`, and its golden rows say so."""
    import pandas as pd

    added = helper.make_tensor("offset", TensorProto.FLOAT, [1], [offset])
    nodes = [helper.make_node("Add", ["hour", "offset"], ["prediction"])]
    _copy(base, to, nodes, [added], model)
    golden = pd.read_parquet(to / "golden.parquet")
    golden["_expected"] = golden["hour"].astype(float) + offset
    golden.to_parquet(to / "golden.parquet", index=False)
    seal(to)
    return to


def one_row_bundle(base: Path, to: Path) -> Path:
    """Answers one row; two rows cannot take the shape it asks for. Sealed by hand: no certificate would pass it."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, 1])
    _copy(base, to, [helper.make_node("Reshape", ["hour", "shape"], ["prediction"])], [shape], "toy")
    seal(to)
    return to


def pole_bundle(base: Path, to: Path, *, model: str = "toy") -> Path:
    """The prediction is `1 / (hour - 13)`: infinite at 13."""
    pole = helper.make_tensor("pole", TensorProto.FLOAT, [1], [13.0])
    nodes = [
        helper.make_node("Sub", ["hour", "pole"], ["distance"]),
        helper.make_node("Reciprocal", ["distance"], ["prediction"]),
    ]
    _copy(base, to, nodes, [pole], model)
    seal(to)
    return to


def _copy(base: Path, to: Path, nodes: list[Any], tensors: list[Any], model: str) -> None:
    shutil.copytree(base, to)
    contract = json.loads((to / "contract.json").read_text())
    contract["model"] = model
    (to / "contract.json").write_text(json.dumps(contract))
    numbers = [c["name"] for c in contract["columns"] if c["dtype"] != "string"]
    position = helper.make_tensor("position", TensorProto.INT64, [1], [numbers.index("hour")])
    take = helper.make_node("Gather", ["numbers", "position"], ["hour"], axis=1)
    graph = helper.make_graph(
        [take, *nodes],
        "toy",
        [
            helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [None, len(numbers)]),
            helper.make_tensor_value_info(
                "strings", TensorProto.STRING, [None, len(contract["columns"]) - len(numbers)]
            ),
        ],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 1])],
        [position, *tensors],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(made)
    (to / "model.onnx").write_bytes(made.SerializeToString())


@dataclass
class Cache:
    """A cache as the puller leaves it, and its hand-over."""

    folder: Path
    keys: list[Key] = field(default_factory=list)
    revision: int = 0
    deployments: dict[str, Deployed] = field(default_factory=dict)
    bundles: dict[str, dict[str, Stored]] = field(default_factory=dict)

    def add(self, version: int, bundle: Path, *, model: str = "toy") -> Path:
        """Put a bundle where the puller would."""
        folder = self.folder / "bundles" / model / str(version)
        shutil.copytree(bundle, folder)
        stored = Stored(str(folder.relative_to(self.folder)), read_bundle(folder).digest)
        self.bundles.setdefault(model, {})[str(version)] = stored
        return folder

    def key(self, scopes: set[str], models: set[str] | None = None) -> str:
        """A new key that is valid from the next hand-over on."""
        secret, record = new_key("test", scopes, models)
        self.keys.append(Key(record.id, record.sha256, sorted(record.scopes), sorted(record.models)))
        return secret

    def deploy(
        self,
        champion: int,
        candidate: int | None = None,
        mode: str | None = None,
        weight: float = 0.0,
        *,
        model: str = "toy",
        salt: str = "salt",
        failures: list[Failure] | None = None,
        routing: Routing | None = None,
    ) -> None:
        """Write the next hand-over."""
        self.deployments[model] = Deployed(self.revision + 1, champion, candidate, mode, weight, salt, routing)
        self.write(failures)

    def write(self, failures: list[Failure] | None = None) -> None:
        """Hand over what there is."""
        self.revision += 1
        state = State(self.revision, time.time(), self.deployments, self.bundles, self.keys, failures or [])
        write_state(self.folder, state)


@dataclass
class Served:
    """A running application and a client of it."""

    app: FastAPI
    client: httpx.AsyncClient
    spool: Spool

    async def predict(self, rows: list[dict[str, Any]] | None = None, path: str = "/predict", **more: Any) -> Any:
        """A prediction that must succeed."""
        reply = await self.client.post(path, json={"rows": rows or [ROW], **more})
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait for what the follower brings about."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if await holds():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it did not come about in a minute")

    async def serves(self, version: int) -> None:
        """Wait until `version` is the champion."""

        async def holds() -> bool:
            models = (await self.client.get("/readyz?verbose")).json()["models"]
            return version in models.get("toy", ())

        await self.until(holds)


@contextlib.asynccontextmanager
async def serving(cache: Cache, key: str = "", **settings: Any) -> AsyncIterator[Served]:
    """The real application over `cache`; its spool lies beside."""
    spool = Spool.open(cache.folder.parent / "spool", commit_interval_s=0.01)
    patient = {"queue": PATIENT, "explain": PATIENT_TOO}
    chosen = ServingSettings(**{"poll_seconds": 0.01, "device": "cpu", "web": ANY_HOST, **patient, **settings})
    app = create_app(chosen, cache.folder, spool, ServeMetrics(CollectorRegistry()))
    app.state.service.ledger._seconds = PATIENT.seconds  # a slow disk is no ledger that is away
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"x-api-key": key} if key else {}
    try:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://perene", headers=headers) as client,
        ):
            yield Served(app, client, spool)
    finally:
        spool.close()


def stored_events(spool: Path) -> list[Event]:
    """Every event that is on disk in a spool file, in order, as another process sees it."""
    reader = SpoolReader(spool)
    try:
        found = [(seq, decode(body)) for seq, body in reader.rows(Range(0, 2**62))]
    finally:
        reader.close()
    numbered = [
        pair for seq, event in found for pair in (rows_of(event) if isinstance(event, Block) else [(seq, event)])
    ]
    return [event for _, event in sorted(numbered, key=lambda pair: pair[0])]


def _cells(column: Any) -> Any:
    """A column's values: doubles have NaN for null."""
    if not isinstance(column, bytes):
        return column
    return [None if math.isnan(value) else value for value in np.frombuffer(column, "<f8").tolist()]


def rows_of(block: Block) -> list[tuple[int, Event]]:
    """The rows of a block as single events, with their sequence numbers."""
    found: list[tuple[int, Event]] = []
    features = [_cells(c) for c in block.features]
    for request, (first, rows) in enumerate(zip(block.first, block.rows, strict=True)):
        for number in range(first, first + rows):
            n = len(found)
            event = PredictionEvent(
                block.ids[n],
                block.at[request],
                block.received[request],
                block.model,
                block.version,
                block.arm[request],
                block.entity[request],
                [None if column is None else column[n] for column in features],
                block.predictions[n],
                None if block.probabilities is None else block.probabilities[n],
                block.latency_ms[request],
                block.key[request],
                block.deployment[request],
                block.assigned[request] if block.assigned else 0,
            )
            found.append((number, event))
    return found
