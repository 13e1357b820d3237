"""Promise 19: under traffic, errors, swaps, labels, slow clients and drift, no process of the platform grows.

Short: half a minute, up to three times, after warming up. `PERENE_CHAOS=full`: ten minutes after two, with Evidently's
reports. The control keeps 16 kB of each request, and now and then a descriptor and a thread.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from registry.ledger import Ledger
from retrain.settings import WorkerSettings
from tests.acceptance.test_serving_process import ROOT, Server, alive, cache, offsets, until
from tests.chaos.full_disks import Started
from tests.chaos.soak import Traffic, leaks, swapping
from tests.integration.serving_toy import Cache

__all__ = ["cache", "offsets"]

FULL = os.environ.get("PERENE_CHAOS") == "full"
WARM_S, MEASURED_S = (120.0, 600.0) if FULL else (20.0, 30.0)


@contextlib.contextmanager
def watching(home: Path) -> Iterator[psutil.Process]:
    """A worker process that watches the model; its memory is full within seconds, as another's is within days."""
    ledger = Ledger.open(f"sqlite:///{home / 'ledger.db'}")
    ledger.move("toy", expected_revision=0, champion=1, actor="test", reason="first")
    ledger.close()
    watch = {"monitoring": {"window_rows": 200, "min_rows": 100, "max_pending": 1_000, "label_lateness_s": 1.0}}
    settings = WorkerSettings.model_validate(
        {"models": {"toy": watch}, "port": 0, "tick_s": 0.5, "upkeep_s": 10.0, "reports": FULL}
    )
    (home / "worker.json").write_text(settings.model_dump_json())
    command = [sys.executable, "-m", "retrain", "--home", str(home), "--settings", str(home / "worker.json")]
    with (home / "worker.log").open("ab") as log:
        process = subprocess.Popen([*command, "--port", "0"], cwd=ROOT, stdout=log, stderr=log)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(WARM_S + 3 * MEASURED_S + 120)
def test_no_process_grows(cache: Cache) -> None:
    """Server, shipper, puller and worker: memory within 5 %, descriptors and threads flat."""
    key = cache.key({"predict", "feedback"})
    cache.deploy(1)
    with Server(cache.folder.parent, key) as server, watching(server.home) as worker:
        server.ready()
        until(lambda: len(server.children()) == 2, "puller and shipper did not start")
        processes = {"serve": psutil.Process(server.process.pid), **server.children(), "worker": worker}
        with Traffic(server, swapping(cache)) as traffic:
            time.sleep(WARM_S)
            found = leaks(processes, MEASURED_S)
        assert alive(worker), (server.home / "worker.log").read_text()[-2_000:]
        ledger = Ledger.open(f"sqlite:///{server.home / 'ledger.db'}")
        findings = len(ledger.evidence("toy", "finding", limit=1_000))
        ledger.close()
    print(f"{dict(sorted(traffic.statuses.items()))}, {findings} findings")
    assert {200, 400, 401, 404, 422} <= set(traffic.statuses)
    assert not {status for status in traffic.statuses if status >= 500} - {503}
    assert findings > 0
    assert found == set()


LEAKS = """
import os, sys, threading
from serving.dataplane import DataPlane

log, kept = DataPlane.log, []

def keeping(self, *given):
    kept.append(bytearray(os.urandom(16_384)))
    if len(kept) % 100 == 0:
        kept.append(os.open("/dev/null", os.O_RDONLY))
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    return log(self, *given)

DataPlane.log = keeping
from serving.main import main
sys.exit(main())
"""


@pytest.mark.timeout(180)
def test_control_a_server_that_keeps_some_of_each_request_is_caught(cache: Cache) -> None:
    """And one that forgets to close, or to end a thread: by the same check."""
    home = cache.folder.parent
    key = cache.key({"predict", "feedback"})
    cache.deploy(1)
    with Started(home, key, within=str(home), prefix=[], script=LEAKS) as server:
        server.ready()
        with Traffic(server, swapping(cache)):
            time.sleep(WARM_S / 3)
            found = leaks({"serve": psutil.Process(server.process.pid)}, 20.0)
    assert found == {("serve", "rss"), ("serve", "fds"), ("serve", "threads")}
