"""A batch job: rows of a file are read, asked about and written, in parts, by three threads that wait for each other.

ONNX Runtime lets go of Python's lock while it runs, so reading and packing the next rows costs the engine nothing as
long as a second core is there.
"""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from registry.errors import ContractViolation
from serving.batch.answer_columns import answered, check_csv, output_schema
from serving.batch.chunk import Place, Source
from serving.batch.csv_file import CsvFile
from serving.batch.input_file import FORMATS, InputFile
from serving.batch.journal import FORMAT, Job, Model, Options, refuse_another
from serving.batch.parquet_rows import ParquetRows
from serving.batch.parts import Parts, refuse_existing
from serving.batch.refusals import BatchRefused, FileUnsound, Reject, file_refused, rows_refused
from serving.batch.rows import Ready, Scorer
from serving.batch.space import check_space

ROWS_PER_PART: Final = 100_000
_AHEAD: Final = 3
"""Chunks that are ready before the engine has time for them."""
_PART_BYTES: Final = 32 * 1024 * 1024
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Asked:
    """What the caller wants."""

    file: Path
    out: Path
    errors: str = "refuse"
    """Rows that do not fit: `refuse` the file, `skip` them, or `null` for an answer."""
    keep: tuple[str, ...] = ()
    rows_per_part: int = ROWS_PER_PART


@dataclass(frozen=True)
class Summary:
    """What a job did; `resumed` rows were answered by an earlier run of the same command."""

    rows: int
    written: int
    rejected: int
    resumed: int
    seconds: float
    errors: Path | None


Report = Callable[[int, int, int], None]
"""Told how much is read, of how much, and how many rows that were."""


def _quiet(_reached: int, _total: int, _rows: int) -> None:
    """Nobody watches."""


def check_output(asked: Asked) -> None:
    """Refuse an output that could not be written, before anything is loaded.

    Raises:
        BatchRefused: it exists, has no known ending, or its folder is not there.
    """
    if asked.out.suffix.lower() not in FORMATS:
        raise BatchRefused(
            f"{asked.out}: neither Parquet nor CSV", where="--out", expected="a name that ends in .parquet or .csv"
        )
    if not asked.out.parent.is_dir():
        raise BatchRefused(f"{asked.out.parent}: there is no such folder", where="--out", hint="make it first")


def score(asked: Asked, scorer: Scorer, model: Model, *, report: Report = _quiet) -> Summary:
    """Answer every row of a file, or go on with that; the output appears when it is complete.

    Args:
        asked: file, output and options.
        scorer: the loaded version.
        model: which it is.
        report: told of progress.

    Raises:
        BatchRefused: the input or the output cannot be used, or the job that was begun is another one.
        FileUnsound: rows do not fit the contract, and `errors` is `refuse`.
        InferenceFailed: the model fails again and again; the job can be gone on with.
    """
    check_output(asked)
    with InputFile(asked.file) as file, closing(_source(file, scorer, asked.keep)) as source:
        schema = output_schema(scorer.contract.output, source.kept_types)
        if asked.out.suffix.lower() == ".csv":
            check_csv(source.kept_types, asked.out)
        options = Options(asked.out.name, asked.errors, list(asked.keep), asked.rows_per_part, scorer.decoder.mode)
        job = Job(FORMAT, file.identity(source.schema), model, options)
        return carry_out(Order(asked, job, schema, check=file.check_unchanged), scorer, source, report=report)


Make = Callable[[Scorer, Ready], tuple[Any, list[Reject]]]
"""Makes the rows of the output for one chunk, and says which rows are not among them."""


@dataclass(frozen=True)
class Order:
    """A job that is to be begun or gone on with.

    `schema` is that of the output, of which `make` makes the rows (by default the answers); `check` is asked before
    the output gets its name.
    """

    asked: Asked
    job: Job
    schema: Any
    make: Make | None = None
    check: Callable[[], None] = lambda: None


def carry_out(order: Order, scorer: Scorer, source: Source, *, report: Report = _quiet) -> Summary:
    """Answer every row of a source, in parts; the output appears when it is complete.

    Raises:
        BatchRefused, FileUnsound, InferenceFailed: as `score`.
    """
    began, asked, schema = time.monotonic(), order.asked, order.schema
    with _opened(asked.out) as parts:
        try:
            resumed = _prepare(parts, order.job, asked, source, schema)
            if parts.journal.done is None:
                _Work(order, scorer, source, parts, report).run()
                order.check()
                parts.finish(schema)
            else:
                parts.publish()
        except (FileUnsound, ContractViolation) as error:
            parts.clear()
            raise file_refused(asked.file, error) if isinstance(error, ContractViolation) else error from None
        except OSError as error:
            full = error.errno in _FULL
            what = "the disk is full" if full else f"it cannot be written ({error.strerror})"
            raise BatchRefused(
                f"{asked.out}: {what}; what is answered so far is kept",
                where=str(parts.folder),
                hint=f"{'make room' if full else 'mend that'}, then run the same command again",
            ) from error
        return _summary(parts, resumed, time.monotonic() - began)


def _opened(out: Path) -> Parts:
    folder = out.with_name(f".{out.name}.parts")
    if not folder.exists():
        refuse_existing(out)
    return Parts(out)


def _source(file: InputFile, scorer: Scorer, keep: Sequence[str]) -> Source:
    kind = CsvFile if file.format == ".csv" else ParquetRows
    return kind(file, scorer.decoder, keep)


def _prepare(parts: Parts, job: Job, asked: Asked, source: Source, schema: Any) -> int:
    """Take up the job that was begun, or begin it; returns how many rows are answered already."""
    found = parts.journal.job
    if found is not None:
        refuse_another(found, job, file=asked.file, folder=parts.folder)
        parts.take_up()
    if parts.journal.done is None:
        try:
            refuse_existing(asked.out)
            refuse_existing(parts.errors)
            if found is None:
                check_space(parts, source, schema, job.input.size)
        except BatchRefused:
            if found is None:
                parts.clear()
            raise
    if found is None:
        parts.begin(job)
    return sum(part.rows for part in parts.journal.parts)


def _summary(parts: Parts, resumed: int, seconds: float) -> Summary:
    done = parts.journal.parts
    written, rejected = sum(part.rows for part in done), sum(part.rejected for part in done)
    rows = done[-1].after.row if done else 0
    return Summary(rows, written, rejected, resumed, seconds, parts.errors if rejected else None)


class _Work:
    """The three threads of a job."""

    def __init__(self, order: Order, scorer: Scorer, source: Source, parts: Parts, report: Report) -> None:
        self._asked = order.asked
        self._scorer = scorer
        self._source = source
        self._make = order.make or partial(answered, schema=order.schema, nulls=order.asked.errors == "null")
        self._parts = parts
        self._report = report
        self._ready: queue.Queue[Ready | BaseException | None] = queue.Queue(_AHEAD)
        self._stop = threading.Event()

    def run(self) -> None:
        """Until every row is in a part."""
        done = self._parts.journal.parts
        start = done[-1].after if done else Place()
        reader = threading.Thread(target=self._read, args=(start,), name="batch-reader", daemon=True)
        reader.start()
        try:
            with ThreadPoolExecutor(1, "batch-writer") as writer:
                self._answer(writer)
        finally:
            self._stop.set()
            with suppress(queue.Empty):  # who waits for room must see that nobody wants more
                while True:
                    self._ready.get_nowait()
            reader.join()

    def _answer(self, writer: ThreadPoolExecutor) -> None:
        writing: Future[None] | None = None
        batches: list[Any] = []
        rejects: list[Reject] = []
        seen = size = 0
        after: Place | None = None
        for ready in self._taken():
            made, refused = self._make(self._scorer, ready)
            if refused and self._asked.errors == "refuse":
                raise rows_refused(self._asked.file, refused)
            batches.append(made)
            rejects += refused
            seen += ready.chunk.count
            size += made.nbytes
            after = ready.chunk.after
            self._report(self._source.reached(after), self._source.total, after.row)
            if seen >= self._asked.rows_per_part or size >= _PART_BYTES:
                if writing is not None:
                    writing.result()
                writing = writer.submit(self._parts.add, batches, rejects, after)
                batches, rejects, seen, size = [], [], 0, 0
        if writing is not None:
            writing.result()
        if seen and after is not None:
            self._parts.add(batches, rejects, after)
        if not self._parts.journal.parts:
            raise FileUnsound(f"{self._asked.file}: there are no rows", where=str(self._asked.file))

    def _taken(self) -> Iterator[Ready]:
        while True:
            item = self._ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def _read(self, start: Place) -> None:
        """The reader's thread; what goes wrong in it is told to the one that answers."""
        try:
            rows = min(self._scorer.rows, self._asked.rows_per_part)
            for chunk in self._source.chunks(start, rows):
                self._put(self._scorer.ready(chunk, coerced=self._source.coerced))
                if self._stop.is_set():
                    return
            self._put(None)
        # it is raised again in the thread that answers
        except BaseException as error:
            self._put(error)

    def _put(self, item: Ready | BaseException | None) -> None:
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._ready.put(item, timeout=0.2)
                return
