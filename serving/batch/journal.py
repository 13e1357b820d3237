"""What a job has done so far, on disk before it counts: one line of JSON for each thing, the first says what job it is.

A line that a crash cut off is no line. A part is noted after its file is on disk under its name, so that a file
without a line is nobody's, and a line without its file is a disk's fault.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

import msgspec

from serving.batch.chunk import Place
from serving.batch.input_file import Identity
from serving.batch.refusals import BatchRefused

FILE: Final = "journal"
FORMAT: Final = 1


class Model(msgspec.Struct, frozen=True):
    """The version that answers."""

    name: str
    version: int
    digest: str


class Options(msgspec.Struct, frozen=True):
    """What was asked for, as far as the output depends on it."""

    out: str
    errors: str
    keep: list[str]
    rows_per_part: int
    decoding: str


class Traffic(msgspec.Struct, frozen=True):
    """Recorded traffic that is answered again: what was asked for, and the moments (microseconds) that it meant."""

    lake: str
    since: str
    until: str
    without_dropped: bool
    start: int | None
    end: int


class Job(msgspec.Struct, frozen=True, tag="job"):
    """What a job is: only the same one goes on."""

    format: int
    input: Identity
    model: Model
    options: Options
    traffic: Traffic | None = None


class Written(msgspec.Struct, frozen=True):
    """A file on disk, known again by size and digest."""

    name: str
    size: int
    sha256: str


class Part(msgspec.Struct, frozen=True, tag="part"):
    """Rows that are answered: up to `after`; `rows` of them are in the output."""

    data: Written
    rejects: Written | None
    rows: int
    rejected: int
    after: Place


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The output is complete and about to get its name."""

    output: Written
    rejects: Written | None


_LINE: Final = msgspec.json.Decoder(Job | Part | Done)


class Journal:
    """The journal of one folder of parts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE
        self.job: Job | None = None
        self.parts: list[Part] = []
        self.done: Done | None = None
        self._sound = 0
        self._read()

    def begin(self, job: Job) -> None:
        """Start the journal of a new job."""
        self.job = job
        self._write(job)
        sync_folder(self._folder)

    def note(self, entry: Part | Done) -> None:
        """Write a line; when this returns, it counts."""
        self._write(entry)
        if isinstance(entry, Part):
            self.parts.append(entry)
        else:
            self.done = entry

    def keep(self, parts: int) -> None:
        """Forget all parts but the first ones, whose files are sound."""
        assert self.job is not None  # noqa: S101
        kept = self.parts[:parts]
        fresh = self._path.with_name(f"{FILE}.new")
        with fresh.open("wb") as file:
            file.writelines(msgspec.json.encode(line) + b"\n" for line in (self.job, *kept))
            file.flush()
            os.fsync(file.fileno())
            self._sound = file.tell()
        os.replace(fresh, self._path)
        sync_folder(self._folder)
        self.parts, self.done = kept, None

    def _read(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        for line in data.splitlines(keepends=True):
            try:
                entry = _LINE.decode(line)
            except msgspec.DecodeError:
                break
            # the first line says what the others belong to
            if not line.endswith(b"\n") or isinstance(entry, Job) == (self.job is not None):
                break
            if isinstance(entry, Job):
                self.job = entry
            elif isinstance(entry, Part):
                self.parts.append(entry)
            else:
                self.done = entry
            self._sound += len(line)

    def _write(self, entry: Job | Part | Done) -> None:
        with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            file.truncate(self._sound)
            file.seek(self._sound)
            file.write(msgspec.json.encode(entry) + b"\n")
            file.flush()
            os.fsync(file.fileno())
            self._sound = file.tell()


def refuse_another(found: Job, asked: Job, *, file: Path, folder: Path) -> None:
    """Refuse to go on with a job that is not the one that was begun.

    Raises:
        BatchRefused: with what differs, and how to go on or to begin anew.
    """
    anew = f"delete {folder} to begin anew"
    if found.format != asked.format:
        raise BatchRefused(f"{folder}: begun by another release of Perene", where=str(folder), hint=anew)
    if found.input != asked.input:
        what = "columns" if found.input.schema != asked.input.schema else "size, time or content"
        raise BatchRefused(
            f"{file}: not the file that this job began with: other {what}",
            where=str(file),
            hint=f"put that file back, or {anew}",
        )
    if found.model != asked.model:
        before, now = found.model, asked.model
        same = f"--model {before.name}@{before.version} goes on with it, or "
        if (before.name, before.version) == (now.name, now.version):
            same = ""
        raise BatchRefused(
            f"this job began with version {before.version} of '{before.name}' ({before.digest[:12]}), "
            f"not with version {now.version} of '{now.name}' ({now.digest[:12]})",
            where="--model",
            hint=same + anew,
        )
    for name in Options.__struct_fields__:
        before_, now_ = getattr(found.options, name), getattr(asked.options, name)
        if before_ != now_:
            flag = "--" + name.replace("_", "-") if name != "decoding" else "serving.decoding"
            shown = " ".join(before_) if isinstance(before_, list) else before_
            raise BatchRefused(
                f"this job began with another {flag}: {shown or 'none'}", where=flag, hint=f"give that one, or {anew}"
            )


def digest_of(path: Path) -> Written:
    """Size and digest of a file."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        return Written(path.name, file.tell(), found)


def is_written(path: Path, written: Written) -> bool:
    """Whether the file is there, as it was written."""
    try:
        if path.is_symlink() or path.stat().st_size != written.size:
            return False
        return digest_of(path).sha256 == written.sha256
    except OSError:
        return False


def sync_folder(folder: Path) -> None:
    """Flush a folder's names to disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
