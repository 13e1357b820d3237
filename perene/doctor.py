"""`perene doctor`: look at everything a process needs, and say what to do about what is wrong."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata

from perene.config import Settings
from registry.errors import PereneError
from registry.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def examine(settings: Settings) -> list[Check]:
    """Every check, none of which changes anything but a file in the home folder and the lake that it removes again."""
    checks: tuple[Callable[[Settings], Iterator[Check]], ...] = (
        _runtime,
        _home,
        _disk,
        _ledger,
        _lake,
        _own_code,
        _ports,
    )
    return [found for check in checks for found in check(settings)]


def _runtime(_settings: Settings) -> Iterator[Check]:
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    yield Check(
        "onnx runtime",
        len(installed) == 1,
        ", ".join(f"{name} {_version(name)}" for name in installed) or "none",
        "install exactly one of onnxruntime and onnxruntime-gpu: they share one folder",
    )


def _home(settings: Settings) -> Iterator[Check]:
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=settings.home) as file:
            os.fsync(file.fileno())
        yield Check("home", ok=True, found=str(settings.home))
    except OSError as error:
        yield Check("home", ok=False, found=type(error).__name__, fix=f"make {settings.home} writable, or set --home")


def _disk(settings: Settings) -> Iterator[Check]:
    base = settings.home if settings.home.exists() else settings.home.absolute().parent
    free = shutil.disk_usage(base).free / 2**30
    yield Check("disk", free > 1.0, f"{free:.1f} GiB free", "free at least 1 GiB")


def _ledger(settings: Settings) -> Iterator[Check]:
    try:
        with closing(Ledger.open(settings.places.ledger_url)) as ledger:
            problems = ledger.verify()
            models = len(ledger.deployments())
    except PereneError as error:
        yield Check("ledger", ok=False, found=error.message, fix=error.hint)
        return
    yield Check("ledger", ok=True, found=f"{models} models deployed")
    yield Check("ledger chain", not problems, "; ".join(problems) or "holds", "restore the ledger from a backup")


def _lake(settings: Settings) -> Iterator[Check]:
    """Whether files can be written and removed where the events go."""
    from monitoring.lake.storage import Key, Storage  # pyarrow takes a while

    where = settings.lake_url or str(settings.places.lake)
    try:
        storage = Storage(settings.places.lake)
        probe = Key(f".doctor-{os.getpid()}")  # readers of the lake pass over names with a dot
        storage.write(probe, b"")
        storage.remove(probe)
        models = sum(name.startswith("model=") for name in storage.folders())
    except (PereneError, OSError) as error:
        said = error.message if isinstance(error, PereneError) else os.strerror(error.errno or 0)
        yield Check("event lake", ok=False, found=said, fix="look at lake_url, the bucket and the credentials")
        return
    yield Check("event lake", ok=True, found=f"{where}, {models} models")


def _own_code(settings: Settings) -> Iterator[Check]:
    """Whether the functions that monitoring is told to use can be imported, as the worker does."""
    wanted = {
        (f"models.{model}.monitoring.{key}", name)
        for model, watched in settings.models.items()
        for key, names in (("detector", (watched.monitoring.detector,)), ("metrics", watched.monitoring.metrics))
        for name in names
        if ":" in name
    }
    if wanted and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as the worker, which is started in the folder of the module
    for key, name in sorted(wanted):
        module, _, attribute = name.partition(":")
        try:
            fine = callable(getattr(importlib.import_module(module), attribute))
            said = name if fine else f"{name} cannot be called"
        except Exception as error:  # somebody's module: whatever it raises is what is wrong with it
            fine, said = False, f"{name}: {type(error).__name__}"
        yield Check(key, fine, said, "start the worker in the folder that holds the module, or mend it")


def _ports(settings: Settings) -> Iterator[Check]:
    for name, port in (("serve port", settings.serving.port), ("worker port", settings.worker_port)):
        with socket.socket() as probe:
            probe.settimeout(0.3)
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        yield Check(name, ok=True, found=f"{port} {'answers' if taken else 'is free'}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
