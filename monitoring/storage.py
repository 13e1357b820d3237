"""Files below one root: a folder of this machine, or a prefix in an object store such as S3 or GCS.

A file appears whole under its name or not at all. On a disk that takes a draft, a sync and a rename; in an object
store one upload, which becomes visible when it is complete.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import fs

from registry.errors import ConfigInvalid, StoreUnavailable

__all__ = ["Key", "Storage"]

Key = PurePosixPath
"""Where a file lies below the root."""


class Storage:
    """Reads, writes, lists and removes whole files."""

    def __init__(self, root: Path | str) -> None:
        """Open the root; nothing is made before the first file.

        Args:
            root: a path, or a URL of pyarrow's file systems: `s3://bucket/prefix?region=…&endpoint_override=…`,
                `gs://bucket/prefix`. Credentials come from the environment, as the store's own tools read them.

        Raises:
            ConfigInvalid: the URL is of a kind that is not known, or not complete.
        """
        text = str(root)
        self._local = "://" not in text
        self._synced: set[Path] = set()
        if self._local:
            self._files, self._base = fs.LocalFileSystem(), text
            return
        try:
            self._files, self._base = fs.FileSystem.from_uri(text)
            if not self._base:
                raise ValueError("no bucket")
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            kind = text.partition("://")[0]
            raise ConfigInvalid(
                f"the event lake's URL ({kind}://…) is not one that can be opened",
                where="lake_url",
                expected="a folder, s3://bucket/prefix or gs://bucket/prefix",
                hint="options such as region and endpoint_override follow a question mark",
            ) from error

    def write(self, key: Key, data: pa.Buffer) -> None:
        """Put a file under its name, in place of one that is there; it is kept for good when this returns."""
        if self._local:
            self._write_local(Path(self._base) / key, data)
            return
        # one write, then close: a stream that is closed half-way would leave half a file
        with self._files.open_output_stream(self._path(key)) as sink:
            sink.write(data)

    def read(self, key: Key) -> pa.NativeFile:
        """A file, opened for reading at any place."""
        return self._files.open_input_file(self._path(key))

    def files(self, folder: Key) -> list[Key]:
        """Every file below a folder, in the order of names; a file that a crash left half written is none."""
        chosen = fs.FileSelector(self._path(folder), allow_not_found=True, recursive=True)
        found = [
            Key(info.path[len(self._base) :].lstrip("/"))
            for info in self._files.get_file_info(chosen)
            if info.type == fs.FileType.File
        ]
        return sorted(key for key in found if not key.name.startswith("."))

    def folders(self) -> list[str]:
        """Names of the folders right below the root."""
        chosen = fs.FileSelector(self._base, allow_not_found=True)
        found = self._files.get_file_info(chosen)
        return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)

    def remove(self, key: Key) -> None:
        """Remove a file; one that is not there is no error."""
        try:
            self._files.delete_file(self._path(key))
        except FileNotFoundError:
            return
        if self._local:
            _sync((Path(self._base) / key).parent)

    def check(self) -> None:
        """Look whether the root can be reached.

        Raises:
            StoreUnavailable: it cannot.
        """
        try:
            self._files.get_file_info(fs.FileSelector(self._base, allow_not_found=True))
        except OSError as error:
            raise StoreUnavailable("the event lake cannot be reached", where="lake_url") from error

    def _path(self, key: Key) -> str:
        return f"{self._base}/{key}" if key.parts else self._base

    def _write_local(self, path: Path, data: pa.Buffer) -> None:
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
        if folder in self._synced:
            return
        folder.mkdir(parents=True, exist_ok=True)
        root = Path(self._base)
        for level in (*folder.parents[: len(folder.relative_to(root).parts)], root.absolute().parent):
            _sync(level)
        self._synced.add(folder)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
