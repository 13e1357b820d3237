"""What a run keeps on disk from step to step: written whole, and looked at before it is used again."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import msgspec

__all__ = ["keep", "keep_file", "kept", "kept_file", "kept_own", "write"]


def write(path: Path, body: bytes) -> None:
    """Replace a file at once: whoever reads it sees all of it or what was there before."""
    scratch = path.with_name(path.name + ".partial")
    with open(scratch, "wb", opener=_opener) as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def keep(path: Path, body: bytes) -> None:
    """Write `body` and, after it, its digest: only with both is it there."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write(path, body)
    _seal(path, hashlib.sha256(body).hexdigest())


def keep_file(scratch: Path, path: Path) -> str:
    """Make the finished file `scratch` the kept `path`; returns its digest."""
    with scratch.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    os.replace(scratch, path)
    _seal(path, digest)
    return digest


def kept(path: Path) -> bytes | None:
    """What `keep` wrote; None when it is not there whole and unchanged."""
    return path.read_bytes() if kept_file(path) else None


def kept_own(path: Path) -> bytes | None:
    """What `keep` wrote, if nobody but this account can have written it since: for what runs code when it is read."""
    try:
        with open(path, "rb", opener=_no_link) as file:
            status = os.fstat(file.fileno())
            body = file.read() if status.st_uid == os.geteuid() and not status.st_mode & 0o022 else None
        noted = msgspec.json.decode(_beside(path).read_bytes(), type=str)
    except (OSError, msgspec.DecodeError):
        return None
    return body if body is not None and hashlib.sha256(body).hexdigest() == noted else None


def kept_file(path: Path) -> str | None:
    """The digest of a kept file that is still what was kept; a damaged one is removed."""
    try:
        noted = msgspec.json.decode(_beside(path).read_bytes(), type=str)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    if found == noted:
        return found
    for damaged in (_beside(path), path):
        with contextlib.suppress(FileNotFoundError):
            damaged.unlink()
    return None


def _opener(path: str, flags: int) -> int:
    """Whatever the umask is, others may not write it; a link that somebody put there is not followed."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def _seal(path: Path, digest: str) -> None:
    write(_beside(path), msgspec.json.encode(digest))


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
