"""`python -m serving`: puller, shipper and jobs, and beside them one process that answers, or several and their parent.

What answers is imported only where it is needed: the parent of several is small.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from monitoring.lake.lake_root import lake_root
from registry import process_log
from registry.errors import ConfigInvalid, PereneError
from registry.line_writer import LineWriter
from registry.private import LEDGER, TRACKING, addresses, taken, write_private
from registry.supervisor import Program, Supervisor
from serving.access.guard import is_loopback
from serving.fleet.ports import held
from serving.observed.tracing import require_tracing
from serving.settings import ServingSettings


def serve(
    settings: ServingSettings,
    home: Path,
    *,
    ledger_url: str = "",
    tracking_uri: str = "",
    trusted: Sequence[str] = (),
    lake: str = "",
    log: LineWriter | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT: requests in flight are answered, the spool is flushed, children end.

    Returns:
        The exit status: not 0 where no worker could start.

    Raises:
        ConfigInvalid: a bind beyond loopback without authentication, device = "cuda" without a GPU, a port is taken, or
            the lake's URL is none.
        StoreUnavailable: the spool's folder cannot be written.
    """
    check_bind(settings)
    require_tracing(wanted=settings.tracing)
    if settings.device == "cuda":  # else no worker can fail for it, and the parent goes without the engine
        from serving.engine import require_device

        require_device(settings.device)
    home = home.resolve()
    stores = programs(settings, home, ledger_url, tracking_uri, trusted, lake)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    with held(settings), private_settings(settings, home / "run") as given:
        helpers = Supervisor([*stores, jobs_program(home, given)], home / "logs")
        helpers.start()
        try:
            if settings.workers > 1:
                from serving.fleet.workers import supervise

                return supervise(settings, home, lake, ledger_url)
            from serving.fleet.process import answer

            answer(settings, home, log=log, lake_url=lake, ledger_url=ledger_url)
            return 0
        finally:
            # after whatever answers: the shipper drains what is flushed before it ends
            helpers.stop()


def programs(
    settings: ServingSettings,
    home: Path,
    ledger_url: str,
    tracking_uri: str,
    trusted: Sequence[str] = (),
    lake_url: str = "",
) -> list[Program]:
    """Puller and shipper."""
    cache, spool, lake = home / "cache", home / "spool", lake_root(home, lake_url)
    stores = addresses(
        ledger_url or f"sqlite:///{home / 'ledger.db'}", tracking_uri or f"sqlite:///{home / 'mlflow.db'}"
    )
    puller = (
        *("--artifact-root", str(home / "artifacts"), "--cache", str(cache)),
        *(("--allow-pickle",) if settings.allow_pickle else ()),
        *(f"--trusted={key}" for key in trusted),
    )
    shipper = (
        *("--spool-dir", str(spool), "--lake", str(lake)),
        *("--min-rows", str(settings.seal_rows), "--max-age", str(settings.seal_seconds)),
        *("--interval", str(min(1.0, settings.seal_seconds / 2))),
    )
    return [
        Program("puller", "serving.puller", puller, secrets=stores),
        Program("shipper", "monitoring.intake.shipper", shipper),
    ]


def jobs_program(home: Path, given: Path) -> Program:
    """What answers files and calls back."""
    return Program("jobs", "serving.jobs.process", ("--run", str(home / "run"), "--settings", str(given)))


@contextlib.contextmanager
def private_settings(settings: ServingSettings, run: Path) -> Iterator[Path]:
    """The settings, which hold secrets, in a file that only its owner reads, for as long as children need it."""
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    given = run / "jobs.json"
    write_private(given, settings.model_dump_json().encode())
    try:
        yield given
    finally:
        given.unlink(missing_ok=True)


def _exit(*_: object) -> None:
    """End before anything answers; once, since what is being stopped must not be broken off."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


def check_bind(settings: ServingSettings) -> None:
    """Refuse to answer strangers without keys, or by any name that they make up.

    Raises:
        ConfigInvalid: the address is not loopback, and `auth` is off or no host is allowed.
    """
    if is_loopback(settings.host):
        return
    if not settings.auth:
        raise ConfigInvalid(
            f"serving.host = '{settings.host}' is not loopback and serving.auth is off",
            where="serving.auth",
            hint="switch auth on, or bind 127.0.0.1",
        )
    if not settings.web.allowed_hosts:
        raise ConfigInvalid(
            f"serving.host = '{settings.host}' is not loopback and serving.web.allowed_hosts is empty",
            where="serving.web.allowed_hosts",
            expected='the names that callers use, for example ["models.example.com"]',
            hint='name them, or bind 127.0.0.1; ["*"] takes any',
        )


def _reason(error: Exception) -> str:
    """Why it cannot start; never what a setting holds."""
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in found)


def main() -> int:
    """`python -m serving --home DIR [--settings FILE.json] [--port N] [--workers N]`."""
    parser = argparse.ArgumentParser(prog="python -m serving")
    parser.add_argument("--home", type=Path, required=True, help="folder of the installation")
    parser.add_argument("--settings", type=Path, help="JSON of ServingSettings")
    parser.add_argument("--port", type=int, help="overrides the port")
    parser.add_argument("--workers", type=int, help="overrides the number of processes that answer")
    parser.add_argument("--channel", type=int, help=argparse.SUPPRESS)  # this is a worker: its end, inherited
    parser.add_argument("--ledger-url", default=taken(LEDGER), help="by default from the environment, as for children")
    parser.add_argument("--tracking-uri", default=taken(TRACKING))
    parser.add_argument("--trusted", action="append", default=[], help="a key that must have signed; repeatable")
    parser.add_argument("--lake", default="", help="the event lake: a folder or a URL without secrets")
    given = parser.parse_args()
    log = process_log.configure()
    try:
        settings = ServingSettings.model_validate(json.loads(given.settings.read_text()) if given.settings else {})
        over = {name: getattr(given, name) for name in ("port", "workers") if getattr(given, name) is not None}
        settings = ServingSettings.model_validate({**settings.model_dump(), **over})
        if given.channel is not None:
            from serving.fleet.process import answer

            channel = _inherited(given.channel)
            answer(settings, given.home, log=log, channel=channel, lake_url=given.lake, ledger_url=given.ledger_url)
            return 0
        stores = {"ledger_url": given.ledger_url, "tracking_uri": given.tracking_uri}
        return serve(settings, given.home, **stores, trusted=given.trusted, lake=given.lake, log=log)
    except (ValidationError, PereneError, OSError) as error:
        sys.stderr.write(f"the server cannot start: {_reason(error)}\n")
        return 2


def _inherited(descriptor: int) -> socket.socket:
    """The channel to the parent; children of this process do not get it, since its end tells the parent of ours."""
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    return channel
