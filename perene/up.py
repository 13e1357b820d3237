"""`perene up`: server and worker on one machine, and a demo played into them when asked for."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import httpx

from perene.config import FILE, Settings, load
from perene.keyring import APP, LOCAL, ensure_key
from perene.output import emit, say
from registry.errors import ConfigInvalid, StoreUnavailable
from registry.private import addresses, write_private
from registry.signing import load_signer, load_verifier
from registry.supervisor import Program, Supervisor
from retrain.settings import WorkerSettings
from serving.fleet.ports import holder_of

READY_S = 60.0


def serve_program(settings: Settings, *, workers: int | None = None) -> Program:
    """The server as a process; `workers` goes before what is configured.

    Raises:
        ConfigInvalid: what is trusted is no key.
    """
    for key in settings.signing.trusted:
        load_verifier(key)
    over = {} if workers is None else {"workers": workers}
    path = _write(settings, "serve.json", {**settings.serving.model_dump(mode="json"), **over})
    trusted = (f"--trusted={key}" for key in settings.signing.trusted)
    stores = addresses(settings.places.ledger_url, settings.places.tracking_uri)
    lake = ("--lake", str(settings.places.lake)) if settings.lake_url else ()
    return Program(
        "serve", "serving", ("--home", str(settings.home), "--settings", str(path), *lake, *trusted), secrets=stores
    )


def worker_program(settings: Settings) -> Program:
    """The worker as a process.

    Raises:
        ConfigInvalid: there is no key to sign with where one is named.
    """
    if settings.signing.key is not None:
        load_signer(settings.signing.key)
    worker = WorkerSettings(
        models=settings.models,
        policy=settings.policy,
        host=settings.worker_host,
        port=settings.worker_port,
        ledger_url=settings.places.ledger_url,
        tracking_uri=settings.places.tracking_uri,
        lake_url=str(settings.places.lake) if settings.lake_url else "",
        retention_days=settings.retention_days,
        signing_key=settings.signing.key.resolve() if settings.signing.key else None,
        trusted=settings.signing.trusted,
        allow_pickle=settings.serving.allow_pickle,
        runs_at_once=settings.runs_at_once,
        hook_secret=settings.serving.hooks.secret,
    )
    path = _write(settings, "worker.json", worker.model_dump(mode="json"))
    return Program("worker", "retrain", ("--home", str(settings.home), "--settings", str(path)))


def exec_program(program: Program) -> NoReturn:
    """Become the program: signals and exit code are its own."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.update(program.secrets)
    os.execv(sys.executable, [sys.executable, "-m", program.module, *program.arguments])


def run(
    *,
    demo_name: str | None,
    home: Path | None,
    config: Path | None,
    until_promoted: bool,
    as_json: bool,
    exit_after: bool = False,
) -> None:
    """Start everything, play the demo if one is named, and stay until Ctrl-C unless `exit_after`.

    Raises:
        ConfigInvalid: the configuration, an unknown demo, a port in use, or a second `perene up` on one home.
        StoreUnavailable: the server did not become ready; its log is named.
    """
    from perene import demo

    chosen = demo.find(demo_name) if demo_name else None
    settings = load(config or (chosen.config if chosen else None), home=home)
    settings.home.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell starts what is in the background with SIGINT ignored
        signal.signal(number, _interrupt)
    with _only_one(settings.home):
        for name, port in (("serving.port", settings.serving.port), ("worker_port", settings.worker_port)):
            _check_free(name, port)
        if chosen is not None:
            demo.prepare(chosen, settings)
        supervisor = Supervisor([serve_program(settings), worker_program(settings)], settings.home / "logs")
        app_key, local_key = ensure_key(settings, *APP), ensure_key(settings, *LOCAL)
        supervisor.start()
        try:
            _wait_ready(settings, need_model=chosen is not None)
            _greet(settings, app_key)
            report = (
                demo.play(chosen, settings, local_key, until_promoted=until_promoted) if chosen is not None else None
            )
            if report is not None and as_json:
                emit(report, as_json=True)
            if not exit_after:
                say("serving until Ctrl-C")
                while True:
                    time.sleep(1)
        except KeyboardInterrupt:
            say("stopping: requests in flight are answered first")
        finally:
            supervisor.stop()


def _greet(settings: Settings, key: str) -> None:
    url = f"http://{settings.serving.host}:{settings.serving.port}"
    say(
        f"\nserving at {url}  (documentation: {url}/docs, metrics: {url}/metrics, "
        f"worker metrics: http://127.0.0.1:{settings.worker_port}/metrics)"
    )
    example = _example(url, key)
    if example is not None:
        model, row = example
        body = shlex.quote(json.dumps({"rows": [row]}))
        say("try it (the key may only predict):\n")
        say(
            f"  curl -s {url}/models/{model}/predict -H 'Authorization: Bearer {key}' "
            f"-H 'Content-Type: application/json' -d {body}\n"
        )
        home = "" if settings.home == Path(".perene") else f" --home {settings.home}"
        say(f"next: perene status{home} · perene status {model} --history{home} · perene rollback {model}{home}\n")


def _example(url: str, key: str) -> tuple[str, dict[str, Any]] | None:
    """A deployed model and a row that it accepts, from the OpenAPI document that anybody can read."""
    document = httpx.get(f"{url}/openapi.json", timeout=10, headers={"Authorization": f"Bearer {key}"}).json()
    for path, operations in document.get("paths", {}).items():
        parts = path.strip("/").split("/")
        if len(parts) == 3 and parts[0] == "models" and parts[2] == "predict" and "{" not in path:
            content = operations["post"]["requestBody"]["content"]["application/json"]
            rows = content.get("example", {}).get("rows")
            if rows:
                return parts[1], rows[0]
    return None


def _wait_ready(settings: Settings, *, need_model: bool) -> None:
    url = f"http://{settings.serving.host}:{settings.serving.port}/{'readyz' if need_model else 'livez'}"
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    log = settings.home / "logs" / "serve.log"
    raise StoreUnavailable(f"the server is not ready after {READY_S:.0f} s", where=str(log), hint=f"read {log}")


def _check_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            variable = f"PERENE__{name.upper().replace('.', '__')}"
            holder = holder_of(port)
            raise ConfigInvalid(
                f"port {port} is in use{holder and f' by {holder}'}",
                where=name,
                hint=f"stop what listens there, or set {variable}",
            ) from error


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    with (home / "up.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigInvalid(
                f"another perene up already runs on {home}", where=str(home), hint="stop it, or choose another --home"
            ) from error
        yield


def _write(settings: Settings, name: str, value: Any) -> Path:
    settings.home.mkdir(parents=True, exist_ok=True)
    path = (settings.home / name).resolve()
    write_private(path, (json.dumps(value, indent=1) + "\n").encode())
    return path


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


__all__ = ["FILE", "exec_program", "run", "serve_program", "worker_program"]
