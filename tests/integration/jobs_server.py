"""Parts of the tests of jobs: the application in this process, and the process that works on files when it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from serving.jobs.process import Runner
from serving.jobs.queue import Queue, opened
from serving.settings import JobSettings, ServingSettings
from tests.integration.serving_toy import Cache, Served, serving

PARQUET = {"content-type": "application/vnd.apache.parquet"}
CSV = {"content-type": "text/csv"}


@dataclass
class Jobs:
    """A server, its queue, and who works on it."""

    served: Served
    queue: Queue
    runner: Runner
    run: Path

    async def post(self, file: Path | bytes, query: str = "", *, model: str = "toy", **headers: str) -> httpx.Response:
        """Hand a file in."""
        kind = CSV if isinstance(file, bytes) or file.suffix == ".csv" else PARQUET
        data = file if isinstance(file, bytes) else file.read_bytes()
        sent = {**kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return await self.served.client.post(f"/models/{model}/batch{query}", content=data, headers=sent)

    async def work(self) -> bool:
        """Work on the next file, to its end."""
        return await asyncio.to_thread(self.runner.turn)

    async def get(self, path: str) -> Any:
        """What a route says."""
        return (await self.served.client.get(path)).json()

    async def ended(self, path: str) -> Any:
        """How a job stands once it has ended."""

        async def holds() -> bool:
            return (await self.get(path))["state"] not in ("queued", "running")

        await self.served.until(holds)
        return await self.get(path)


@contextlib.asynccontextmanager
async def jobs(cache: Cache, key: str = "", **settings: Any) -> AsyncIterator[Jobs]:
    """The real application, with these `[serving.jobs]`."""
    chosen = JobSettings(**settings)
    run = cache.folder.parent / "run"
    run.mkdir(exist_ok=True)
    file = run / "jobs.json"
    file.write_text(ServingSettings(device="cpu", jobs=chosen).model_dump_json())
    async with serving(cache, key, jobs=chosen) as served:
        queue = opened(run, chosen)
        yield Jobs(served, queue, Runner(queue, run, file, []), run)
        queue.store.close()


def body(row: dict[str, Any]) -> bytes:
    return json.dumps({"rows": [row]}).encode()
