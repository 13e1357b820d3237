"""P3: what the add-ons of one request cost: key, host, admission, id, event, metrics, usage and log line.

`python -m bench.serving.addons` writes bench/results/addons.json. The parts of a server are asked in this process for
100,000 requests of one row, with nothing else between them; the time is that of the processor, so it counts the threads
that write events and log lines too, until both are on disk. The shipper, another process, is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from prometheus_client import CollectorRegistry

from bench.serving.ask import first_answer, running
from bench.serving.machine import facts, save
from bench.serving.ours import perene
from bench.serving.subject import Subject
from bench.serving.subject import prepare as prepare_subject
from monitoring.alerting.metrics import ServeMetrics
from monitoring.intake.ids import uuid7s
from monitoring.intake.spool import Spool
from registry.line_writer import LineWriter
from serving.app import create_app
from serving.dataplane import Record
from serving.observed.request_log import Line
from serving.observed.seen import observer_of
from serving.queues.engine_queue import SWITCH_S
from serving.service import Service
from serving.settings import ServingSettings

REQUESTS = 100_000
ROUNDS = 5


def loop(service: Service, subject: Subject, requests: int) -> None:
    """Everything beside reading, predicting and answering, as the fast lane does it."""
    model = service.table.get(subject.name)
    version = model.champion
    row = tuple(subject.rows[0][name] for name in version.contract.names)
    answer = version.engine.run(version.decoder.pack([row]))
    headers = {b"authorization": f"Bearer {subject.key}".encode(), b"host": b"127.0.0.1:8000"}
    times = (1e-5, 0.0, 1e-5, 1e-5, 1e-4)
    log = service.observer.log
    for _ in range(requests):
        service.guard.host(headers[b"host"])
        caller = service.predicts(headers, model.name)
        version.batcher.admit()
        ids = uuid7s(1)
        service.plane.log(version, Record("champion", [row], None, "", caller.id, 0.1), answer, ids)
        service.meters.of(model.name, version.version, "champion").answered(1, 1e-5, 1e-5, 1e-5, 1e-4, 0.0)
        service.usage.of(caller.id).answered(1, 3e-5)
        if log is not None:
            told = (ids[0], model.name, version.version, "champion", "perene", 1, 200, times)
            log.line(Line(*told, caller.id, b"", "/models/{model}/predict"))


async def once(subject: Subject, folder: Path, requests: int) -> tuple[float, float]:
    """Seconds of the processor: those on the loop, and all of them."""
    cache = folder / "cache"
    shutil.copytree(subject.home / "cache", cache)
    log_file = (folder / "log").open("wb")
    writer = LineWriter(log_file.fileno(), lost=lambda _: b"")
    settings = ServingSettings(device="cpu")
    spool = Spool.open(folder / "spool")
    app = create_app(settings, cache, spool, ServeMetrics(CollectorRegistry()), observer_of(settings, writer))
    service: Service = app.state.service
    with closing(log_file):
        async with app.router.lifespan_context(app):
            all_began, began = time.process_time(), time.thread_time()
            for _ in range(requests // 1_000):
                loop(service, subject, 1_000)
                await asyncio.sleep(0.01)  # the threads are not starved in a server either
            on_loop = time.thread_time() - began
            spool.close()
            writer.close(30)
            service.settle()
            whole = time.process_time() - all_began
    return on_loop, whole


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    given = parser.parse_args()
    subject = prepare_subject()
    if not (subject.home / "cache").is_dir():
        target = perene(subject)
        with running(target) as (server, port):  # its puller fetches the model
            first_answer(target, server, port, target.bodies(subject, 1)[0])
    sys.setswitchinterval(SWITCH_S)
    on_loop, whole = [], []
    for _ in range(ROUNDS):
        with TemporaryDirectory() as folder:
            first, second = asyncio.run(once(subject, Path(folder), given.requests))
        on_loop.append(first / given.requests * 1e6)
        whole.append(second / given.requests * 1e6)
    found = {
        "machine": facts(),
        "command": "python -m bench.serving.addons",
        "loop_us": round(median(on_loop), 2),
        "addons_us": round(median(whole), 2),
        "summary": f"{median(whole):.1f} µs of CPU a request, {median(on_loop):.1f} of them on the event loop",
    }
    print(found["summary"])
    print(save("addons", found))


if __name__ == "__main__":
    main()
