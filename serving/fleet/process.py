"""One process that answers: the application on the port, with a spool of its own."""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry

from monitoring.alerting.metrics import ServeMetrics
from monitoring.intake.pseudonyms import load_pseudonyms
from monitoring.intake.spool import Spool
from registry.line_writer import LineWriter
from serving.app import create_app
from serving.engine import require_device
from serving.fleet.drain import DrainingServer, config_of
from serving.fleet.ports import listeners
from serving.observed.seen import observer_of
from serving.queues.engine_queue import SWITCH_S
from serving.settings import ServingSettings
from serving.wire.lane import protocol_of


def answer(
    settings: ServingSettings,
    home: Path,
    *,
    log: LineWriter | None = None,
    channel: socket.socket | None = None,
    lake_url: str = "",
    ledger_url: str = "",
) -> None:
    """Answer until SIGTERM or SIGINT: then requests in flight are answered, and the spool is flushed.

    Args:
        settings: of the server.
        home: folder of the installation.
        log: writes the lines of requests.
        channel: to the parent, which adds up the numbers of all workers.
        lake_url: where the event lake is, if not in the home.
        ledger_url: where the ledger is, if not in the home.

    Raises:
        ConfigInvalid: device = "cuda" without a GPU.
        StoreUnavailable: the spool's folder cannot be written.
    """
    require_device(settings.device)
    sys.setswitchinterval(SWITCH_S)
    _collect_rarely()
    metrics = ServeMetrics(CollectorRegistry())
    digest = load_pseudonyms(home, settings.subject_key)
    with contextlib.closing(Spool.open(home / "spool", max_bytes=settings.spool_max_bytes, digest=digest)) as spool:
        observer = observer_of(settings, log)
        stores = {"lake_url": lake_url, "ledger_url": ledger_url}
        app = create_app(settings, home / "cache", spool, metrics, observer, channel=channel, **stores)
        service = app.state.service
        protocol = protocol_of(service)
        DrainingServer(config_of(app, protocol), protocol, service).run(sockets=listeners(settings))


def _collect_rarely() -> None:
    """Leave the modules out of garbage collection, and look for garbage less often.

    What a request makes is freed by counting references. What waits for the spool looks to the collector like growth:
    with Python's own thresholds it goes through every object of the process several times a second, 50 ms each.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 50)
