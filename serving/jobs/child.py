"""One file, answered by a process of its own: `python -m serving.jobs.child RUN JOB SETTINGS.json`.

It says how far it is and how it ended in lines of JSON on stdout, and holds a lock on the job's folder: of two, the
later one waits. Whatever kills it costs an attempt; the next one goes on after the last finished part.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import filecmp
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from registry.errors import BundleCorrupt, PereneError
from registry.isolation import limit
from serving.jobs.files import Places
from serving.jobs.job import Failure
from serving.jobs.store import sync_folder
from serving.settings import ServingSettings

EVERY_S: Final = 0.5
LOCK: Final = "lock"
_PIPE: Final = 1


class Task(msgspec.Struct, frozen=True):
    """What a file job asks for."""

    version: int
    digest: str
    input: str
    """Its name in the job's folder, or in the shared one where that is named."""
    ending: str
    """Of the result: `.parquet` or `.csv`."""
    folder: str = ""
    output: str = ""
    """The name that the result gets in the shared folder."""
    errors: str = "refuse"
    keep: list[str] = []

    @property
    def result(self) -> str:
        """Its name in the job's folder."""
        return f"result{self.ending}"


def main(run: Path, job: str, settings: ServingSettings, task: Task) -> dict[str, Any]:
    """Answer the file; returns how it ended, as one line says it."""
    places = Places(run, job)
    lock = os.open(places.folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    from registry.bundle import read_bundle
    from serving.batch.job import Asked, score
    from serving.batch.journal import Model
    from serving.batch.refusals import BatchRefused
    from serving.batch.rows import Scorer

    bundle = read_bundle(places.bundle)
    if bundle.digest != task.digest:
        raise BundleCorrupt("the files of the version are not what they were", where="bundle")
    out = places.folder / task.result
    file = Path(task.folder or places.folder) / task.input
    _drop_unsaid(out)
    try:
        with Scorer(bundle, settings) as scorer:
            limit(settings.jobs.memory_mb)
            asked = Asked(file, out, task.errors, tuple(task.keep))
            done = score(asked, scorer, Model(bundle.contract.model, task.version, bundle.digest), report=_reporter())
    except BatchRefused as error:
        kind = "again" if isinstance(error.__cause__, OSError) else "failed"
        return {kind: _told(error, str(places.folder), task.folder)}
    if task.output and not publish(out, Path(task.folder) / task.output):
        return {"failed": _built(Failure("output_exists", "something else has the name of the output", task.output))}
    return {"done": {"rows": done.rows, "rejected": done.rejected, "size": out.stat().st_size}}


def publish(result: Path, target: Path) -> bool:
    """Give the shared folder a copy, whole or not at all; false when something else has its name.

    An earlier attempt may have done so without saying it: then the very same file is there.
    """
    draft = target.with_name(f".{target.name}.{result.parent.name}")
    shutil.copyfile(result, draft)
    try:
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        try:
            os.link(draft, target)
        except FileExistsError:
            return target.is_file() and not target.is_symlink() and filecmp.cmp(result, target, shallow=False)
        sync_folder(target.parent)
        return True
    finally:
        draft.unlink()


def _drop_unsaid(out: Path) -> None:
    """An earlier attempt may have ended between giving the result its name and saying so: it is made again."""
    parts = out.with_name(f".{out.name}.parts")
    if out.exists() and not (parts / "journal").exists():
        out.unlink()
        out.with_name(f"{out.stem}.errors.csv").unlink(missing_ok=True)
        shutil.rmtree(parts, ignore_errors=True)


def _told(error: PereneError, *folders: str) -> Any:
    """The error in the words of HTTP: names of files without our folders, options without the command's dashes."""
    message, where = error.message, error.where
    for folder in filter(None, folders):
        message, where = message.replace(f"{folder}/", ""), where.replace(f"{folder}/", "")
    hint = error.hint.replace("--errors skip", "errors=skip").replace("--errors null", "errors=null")
    return _built(Failure(error.code, message, where, hint))


def _built(failure: Failure) -> Any:
    return msgspec.to_builtins(failure)


def _reporter() -> Any:
    said = [0.0]

    def report(reached: int, total: int, rows: int) -> None:
        if time.monotonic() - said[0] >= EVERY_S:
            said[0] = time.monotonic()
            _say({"at": [reached, total, rows]})

    return report


def _say(line: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(_PIPE, json.dumps(line).encode() + b"\n")


def _ended(run: str, job: str, settings: str, task: str) -> dict[str, Any]:
    try:
        chosen = ServingSettings.model_validate_json(Path(settings).read_bytes())
        return main(Path(run), job, chosen, msgspec.json.decode(task, type=Task))
    except PereneError as error:
        return {"again": _told(error)}
    except OSError as error:
        word = errno.errorcode.get(error.errno or 0, "an error of the disk")
        return {"again": _built(Failure("store_unavailable", f"a file cannot be used ({word})"))}
    except MemoryError:
        return {"again": _built(Failure("out_of_memory", "it took more than serving.jobs.memory_mb"))}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = sys.stderr  # what is printed must not be taken for what we say
    _say(_ended(*sys.argv[1:5]))
