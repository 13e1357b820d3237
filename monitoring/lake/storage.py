"""Files below one root: a folder of this machine, or a prefix in an object store such as S3 or GCS.

A file appears whole under its name or not at all. On a disk that takes a draft, a sync and a rename; in an object
store one upload, which becomes visible when it is complete.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
from pyarrow import fs

from monitoring.lake.lake_root import check_lake_url
from registry.errors import StoreUnavailable

__all__ = ["Key", "Storage"]

Key = PurePosixPath
"""Where a file lies below the root."""
_SILENCE_S: Final = 10.0
"""A store that says nothing for as long is taken to be away; each request is tried `_ATTEMPTS` times."""
_CONNECT_S: Final = 5.0
_ATTEMPTS: Final = 3


class Storage:
    """Reads, writes, lists and removes whole files."""

    def __init__(self, root: Path | str) -> None:
        """Open the root; nothing is made before the first file.

        Args:
            root: a path, or a URL as `monitoring.lake.lake_root` allows it. Credentials come from the
                environment, as the store's own tools read them.

        Raises:
            ConfigInvalid: the URL is of a kind that is not known, or not complete.
        """
        text = str(root)
        self._local = "://" not in text
        self._synced: set[Path] = set()
        self._files: fs.FileSystem
        if self._local:
            self._files, self._base = fs.LocalFileSystem(), text
        else:
            check_lake_url(text)
            self._files, self._base = _opened(text)

    def write(self, key: Key, data: pa.Buffer | bytes) -> None:
        """Put a file under its name, in place of one that is there; it is kept for good when this returns."""
        with _reached("written"):
            if self._local:
                self._write_local(Path(self._base) / key, data)
                return
            # one write, then close: a stream that is closed half-way would leave half a file
            with self._files.open_output_stream(self._path(key)) as sink:
                sink.write(data)

    @contextmanager
    def read(self, key: Key) -> Iterator[pa.NativeFile]:
        """A file, opened for reading at any place.

        Raises:
            FileNotFoundError: there is no such file, or no longer.
            StoreUnavailable: the store does not give it, or what it gives is no Parquet.
        """
        try:
            with _reached(f"read at {key}"), self._files.open_input_file(self._path(key)) as file:
                yield file
        except pa.ArrowInvalid as error:
            raise StoreUnavailable(
                f"a file of the event lake is damaged: {key}",
                where="lake_url",
                hint="put it back from a copy, or move it out of the lake",
            ) from error

    def files(self, folder: Key) -> list[Key]:
        """Every file below a folder, in the order of names; a file that a crash left half written is none."""
        chosen = fs.FileSelector(self._path(folder), allow_not_found=True, recursive=True)
        with _reached("listed"):
            infos = self._files.get_file_info(chosen)
        found = [Key(info.path[len(self._base) :].lstrip("/")) for info in infos if info.type == fs.FileType.File]
        return sorted(key for key in found if not key.name.startswith("."))

    def folders(self) -> list[str]:
        """Names of the folders right below the root."""
        chosen = fs.FileSelector(self._base, allow_not_found=True)
        with _reached("listed"):
            found = self._files.get_file_info(chosen)
        return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)

    def remove(self, key: Key) -> None:
        """Remove a file; one that is not there is no error."""
        with _reached("written"):
            try:
                self._files.delete_file(self._path(key))
            except FileNotFoundError:
                return
            if self._local:
                _sync((Path(self._base) / key).parent)

    def sweep(self, *, before: float) -> int:
        """Remove what writers that died left half written before a moment, unix seconds; returns how many."""
        if not self._local:
            return 0
        drafts = [path for path in Path(self._base).rglob(".*.draft") if path.stat().st_mtime < before]
        for draft in drafts:
            draft.unlink(missing_ok=True)
        return len(drafts)

    def check(self) -> None:
        """Look whether the root can be reached.

        Raises:
            StoreUnavailable: it cannot.
        """
        self.folders()

    def _path(self, key: Key) -> str:
        return f"{self._base}/{key}" if key.parts else self._base

    def _write_local(self, path: Path, data: pa.Buffer | bytes) -> None:
        """Write beside, sync, rename, sync the folder: a crash at any point leaves no half file under the name."""
        self._make_folder(path.parent)
        draft = path.with_name(f".{path.name}.draft")
        with draft.open("wb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        draft.replace(path)
        _sync(path.parent)

    def _make_folder(self, folder: Path) -> None:
        """Make the folder and sync each level above it, so that a power cut cannot take a folder with its files."""
        if folder in self._synced and folder.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        root = Path(self._base)
        for level in (*folder.parents[: len(folder.relative_to(root).parts)], root.absolute().parent):
            _sync(level)
        self._synced.add(folder)


def _opened(url: str) -> tuple[fs.FileSystem, str]:
    """An object store that never waits for ever, and the path of the root in it."""
    parts = urlsplit(url)
    base = f"{parts.netloc}{parts.path}".rstrip("/")
    options = dict(parse_qsl(parts.query))
    if parts.scheme == "gs":
        patience = timedelta(seconds=_SILENCE_S * _ATTEMPTS)
        return fs.GcsFileSystem(retry_time_limit=patience, **options), base
    store = fs.S3FileSystem(
        request_timeout=_SILENCE_S,
        connect_timeout=_CONNECT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        allow_delayed_open=True,  # one request for a small file, and none that an abort would leave half done
        **options,
    )
    return store, base


@contextmanager
def _reached(what: str) -> Iterator[None]:
    """Whatever the disk or the network says is one error of ours; that a file is not there is left as it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if "NO_SUCH_KEY" in str(error):  # removed after it was opened
            raise FileNotFoundError from error
        said = re.search(r"AWS Error \w+ during \w+", str(error))
        why = os.strerror(error.errno) if error.errno else said[0] if said else type(error).__name__
        raise StoreUnavailable(
            f"the event lake cannot be {what}: {why}",
            where="lake_url",
            hint="perene doctor says what is wrong; events wait in the spool meanwhile",
        ) from error


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
