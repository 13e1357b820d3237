"""The serve process: the application, with puller and shipper as its children."""

from __future__ import annotations

import argparse
import ipaddress
import json
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from monitoring.metrics import ServeMetrics
from monitoring.spool import Spool
from registry.errors import ConfigInvalid, PereneError
from registry.supervisor import Program, Supervisor
from serving.app import create_app
from serving.engine import require_device
from serving.lane import protocol_of
from serving.settings import ServingSettings

DRAIN_S = 8


def serve(
    settings: ServingSettings,
    home: Path,
    *,
    ledger_url: str = "",
    tracking_uri: str = "",
    trusted: Sequence[str] = (),
) -> None:
    """Serve until SIGTERM or SIGINT: requests in flight are answered, the spool is flushed, children end.

    Raises:
        ConfigInvalid: a bind beyond loopback without authentication, device = "cuda" without a GPU, or
            `grpc_port` is taken.
        StoreUnavailable: the spool's folder cannot be written.
    """
    check_bind(settings)
    check_grpc_port(settings)
    require_device(settings.device)
    home = home.resolve()
    registry = CollectorRegistry()
    spool = Spool.open(home / "spool", max_bytes=settings.spool_max_bytes)
    children = Supervisor(programs(settings, home, ledger_url, tracking_uri, trusted), home / "logs")
    try:
        # uvicorn raises the signal again once it has drained: that must not skip what follows here
        signal.signal(signal.SIGTERM, _exit)
        children.start()
        app = create_app(settings, home / "cache", spool, ServeMetrics(registry))
        uvicorn.run(
            app,
            host=settings.host,
            port=settings.port,
            loop="uvloop" if sys.platform != "win32" else "asyncio",
            http=protocol_of(app.state.service),
            ws="none",
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=DRAIN_S,
        )
    finally:
        # the spool first: the shipper drains what is flushed before it ends
        spool.close()
        children.stop()


def programs(
    settings: ServingSettings, home: Path, ledger_url: str, tracking_uri: str, trusted: Sequence[str] = ()
) -> list[Program]:
    """Puller and shipper."""
    cache, spool, lake = home / "cache", home / "spool", home / "events"
    puller = (
        *("--ledger-url", ledger_url or f"sqlite:///{home / 'ledger.db'}"),
        *("--tracking-uri", tracking_uri or f"sqlite:///{home / 'mlflow.db'}"),
        *("--artifact-root", str(home / "artifacts"), "--cache", str(cache)),
        *(("--allow-pickle",) if settings.allow_pickle else ()),
        *(f"--trusted={key}" for key in trusted),
    )
    shipper = (
        *("--spool-dir", str(spool), "--lake", str(lake)),
        *("--min-rows", str(settings.seal_rows), "--max-age", str(settings.seal_seconds)),
        *("--interval", str(min(1.0, settings.seal_seconds / 2))),
    )
    return [Program("puller", "serving.puller", puller), Program("shipper", "monitoring.shipper", shipper)]


def _exit(*_: object) -> None:
    raise SystemExit(0)


def check_bind(settings: ServingSettings) -> None:
    """Refuse to answer strangers without keys.

    Raises:
        ConfigInvalid: the address is not loopback and `auth` is off.
    """
    try:
        loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        loopback = settings.host == "localhost"
    if not loopback and not settings.auth:
        raise ConfigInvalid(
            f"serving.host = '{settings.host}' is not loopback and serving.auth is off",
            where="serving.auth",
            hint="switch auth on, or bind 127.0.0.1",
        )


def check_grpc_port(settings: ServingSettings) -> None:
    """Tell before anything is started that the port of gRPC is taken.

    Raises:
        ConfigInvalid: it is.
    """
    if settings.grpc_port is None:
        return
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        # as gRPC does: a port whose last connections are still winding down is free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.grpc_port))
        except OSError as error:
            raise ConfigInvalid(
                f"serving.grpc_port = {settings.grpc_port} cannot be bound: {error.strerror}",
                where="serving.grpc_port",
                hint="choose another port, or stop what listens there",
            ) from error


def main() -> int:
    """`python -m serving --home DIR [--settings FILE.json] [--port N]`."""
    parser = argparse.ArgumentParser(prog="python -m serving")
    parser.add_argument("--home", type=Path, required=True, help="folder of the installation")
    parser.add_argument("--settings", type=Path, help="JSON of ServingSettings")
    parser.add_argument("--port", type=int, help="overrides the port")
    parser.add_argument("--ledger-url", default="")
    parser.add_argument("--tracking-uri", default="")
    parser.add_argument("--trusted", action="append", default=[], help="a key that must have signed; repeatable")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    try:
        settings = ServingSettings.model_validate(json.loads(given.settings.read_text()) if given.settings else {})
        if given.port is not None:
            settings = settings.model_copy(update={"port": given.port})
        stores = {"ledger_url": given.ledger_url, "tracking_uri": given.tracking_uri}
        serve(settings, given.home, **stores, trusted=given.trusted)
    except (ValidationError, PereneError, OSError) as error:
        sys.stderr.write(f"the server cannot start: {error}\n")
        return 2
    return 0
