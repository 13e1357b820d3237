"""The folder of parts beside the output: what is answered, before it is all there."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Final

from serving.batch.chunk import Place
from serving.batch.journal import FILE, Done, Job, Journal, Part, Written, digest_of, is_written, sync_folder
from serving.batch.refusals import BatchRefused, Reject

_GROUP_ROWS: Final = 100_000
_GROUP_BYTES: Final = 32 * 1024 * 1024
ERRORS_HEAD: Final = ("row", "line", "column", "reason")
Write = Callable[[IO[bytes]], None]


class Parts:
    """The folder `.NAME.parts` of one output, held by one process at a time. Usable as a context manager.

    Args:
        out: the output; its ending says the format.

    Raises:
        BatchRefused: the folder cannot be made or is not ours, or another process works in it.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.errors = out.with_name(f"{out.stem}.errors.csv")
        self.folder = out.with_name(f".{out.name}.parts")
        self.format = out.suffix.lower()
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise BatchRefused(
                f"{self.folder}: cannot be made or opened ({error.strerror})", where="--out", hint="see its permissions"
            ) from None
        try:
            self._take()
            self.journal = Journal(self.folder)
            self._refuse_foreign()
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def begin(self, job: Job) -> None:
        """Start anew, in an empty folder."""
        for path in self.folder.iterdir():
            path.unlink()
        self.journal.begin(job)
        sync_folder(self.folder.parent)

    def take_up(self) -> None:
        """Keep what is sound of a job that was begun; files that the journal does not know are nobody's."""
        parts, sound, done = self.journal.parts, 0, self.journal.done
        if done is not None and all(
            is_written(target, written) or is_written(self.folder / written.name, written)
            for written, target in self._published(done)
        ):
            return  # parts may be cleared away already
        while sound < len(parts) and all(
            is_written(self.folder / file.name, file) for file in (parts[sound].data, parts[sound].rejects) if file
        ):
            sound += 1
        if sound < len(parts) or done is not None:
            self.journal.keep(sound)
        files = [part.data for part in parts[:sound]] + [part.rejects for part in parts[:sound]]
        known = {FILE, *(file.name for file in files if file)}
        for path in self.folder.iterdir():
            if path.name not in known:
                path.unlink()

    def add(self, batches: Sequence[Any], rejects: Sequence[Reject], after: Place) -> None:
        """Write the next part and note it.

        Args:
            batches: its rows.
            rejects: rows up to `after` that got no answer.
            after: where reading goes on.
        """
        name = f"{len(self.journal.parts):06d}"
        data = self.write(f"{name}.rows", lambda file: self._rows(file, batches))
        beside = self.write(f"{name}.errors", lambda file: _reject_lines(file, rejects)) if rejects else None
        rows = sum(batch.num_rows for batch in batches)
        self.journal.note(Part(data, beside, rows, len(rejects), after))

    def write(self, name: str, write: Write) -> Written:
        """A file of the folder, on disk before it has its name."""
        draft = self.folder / f"{name}.new"
        with draft.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        found = digest_of(draft)
        os.replace(draft, self.folder / name)
        sync_folder(self.folder)
        return Written(name, found.size, found.sha256)

    def finish(self, schema: Any) -> None:
        """Put the parts together, note that, and publish."""
        parts = self.journal.parts
        output = self.write("output", lambda file: self._whole(file, schema))
        beside = [self.folder / part.rejects.name for part in parts if part.rejects]
        rejects = self.write("errors", lambda file: _errors_file(file, beside)) if beside else None
        self.journal.note(Done(output, rejects))
        self.publish()

    def publish(self) -> None:
        """Give the complete output its name, the rows without an answer before it; then clear away.

        Raises:
            BatchRefused: somebody else's file has the name.
        """
        done = self.journal.done
        assert done is not None  # noqa: S101
        for written, target in self._published(done):
            if is_written(target, written):
                continue
            refuse_existing(target)
            os.rename(self.folder / written.name, target)
            sync_folder(target.parent)
        self.clear()

    def clear(self) -> None:
        """Remove the folder, the journal last."""
        for path in self.folder.iterdir():
            if path.name != FILE:
                path.unlink()
        (self.folder / FILE).unlink(missing_ok=True)
        self.folder.rmdir()

    def _published(self, done: Done) -> list[tuple[Written, Path]]:
        found = [(done.output, self.out)]
        return found if done.rejects is None else [(done.rejects, self.errors), *found]

    def _rows(self, file: IO[bytes], batches: Sequence[Any]) -> None:
        import pyarrow as pa
        from pyarrow import csv as text

        if self.format == ".csv":
            plain = text.WriteOptions(include_header=False)
            for batch in batches:
                text.write_csv(batch, file, plain)
            return
        with pa.ipc.new_file(file, batches[0].schema) as writer:
            for batch in batches:
                writer.write_batch(batch)

    def _whole(self, file: IO[bytes], schema: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        paths = [self.folder / part.data.name for part in self.journal.parts]
        if self.format == ".csv":
            file.write(_csv_lines([schema.names]))
            _append(file, paths)
            return
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            # small parts become groups of rows that are worth reading
            waiting: list[Any] = []
            for path in paths:
                with pa.OSFile(str(path)) as raw:
                    waiting.append(pa.ipc.open_file(raw).read_all())
                if sum(t.num_rows for t in waiting) >= _GROUP_ROWS or sum(t.nbytes for t in waiting) >= _GROUP_BYTES:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting))

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BatchRefused(
                f"another process writes {self.out} just now", where=str(self.folder), hint="wait for it, or stop it"
            ) from None

    def _refuse_foreign(self) -> None:
        """A folder without a journal holds at most what a crash left of the first moments."""
        strange = [path for path in self.folder.iterdir() if not path.is_file() or path.is_symlink()]
        if strange or (self.journal.job is None and any(path.name != FILE for path in self.folder.iterdir())):
            raise BatchRefused(
                f"{self.folder}: holds files that are no job's", where=str(self.folder), hint="move it away"
            )


def refuse_existing(path: Path) -> None:
    """Refuse to write over what is there.

    Raises:
        BatchRefused: something has this name already.
    """
    if os.path.lexists(path):
        raise BatchRefused(f"{path}: exists already", where="--out", hint="move it away, or choose another name")


def _reject_lines(file: IO[bytes], rejects: Iterable[Reject]) -> None:
    file.write(_csv_lines((r.row, "" if r.line is None else r.line, r.column, r.reason) for r in rejects))


def _errors_file(file: IO[bytes], parts: Sequence[Path]) -> None:
    file.write(_csv_lines([ERRORS_HEAD]))
    _append(file, parts)


def _csv_lines(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _append(file: IO[bytes], paths: Iterable[Path]) -> None:
    for path in paths:
        with path.open("rb") as part:
            shutil.copyfileobj(part, file, 1 << 20)
