"""What a batch job refuses, with file, line and the fix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

from registry.errors import ContractViolation, FieldError, PereneError

_ROW: Final = re.compile(r"rows\[(\d+)\]\.?(.*)", re.DOTALL)


class BatchRefused(PereneError):
    """A file that cannot be read as rows, or an output that cannot be written; nothing was put out."""

    code = "batch_refused"


class FileUnsound(BatchRefused):
    """A file that is damaged, or has rows that the model's contract does not take: work on it is given up."""

    code = "file_unsound"


class Reject(msgspec.Struct, frozen=True, order=True):
    """A row without an answer: its number, its line in a CSV file, the column and the reason; never a value."""

    row: int
    line: int | None
    column: str
    reason: str


def reason_of(error: FieldError) -> str:
    """What is wrong with a field, in one line."""
    return f"{error.message}, got {error.got}" if error.got and error.got not in error.message else error.message


def by_row(error: ContractViolation) -> dict[int, tuple[str, str]] | None:
    """Column and reason for each row that is named, by place; None when a whole column is at fault."""
    found: dict[int, tuple[str, str]] = {}
    for one in error.errors:
        named = _ROW.fullmatch(one.path)
        if named is None:
            return None
        found.setdefault(int(named[1]), (named[2], reason_of(one)))
    return found or None


def rows_refused(file: Path, rejects: list[Reject]) -> FileUnsound:
    """The refusal of a file for rows of it."""
    first = rejects[0]
    place = f"row {first.row}" if first.line is None else f"line {first.line} (row {first.row})"
    column = f", column '{first.column}'" if first.column else ""
    more = f"; {len(rejects) - 1} more rows near it" if len(rejects) > 1 else ""
    return FileUnsound(
        f"{file}: {place}{column}: {first.reason}{more}",
        where=f"{file}:{first.line}" if first.line is not None else f"{file}: row {first.row}",
        hint="mend the file, or say --errors skip or --errors null",
    )


def file_refused(file: Path, error: PereneError) -> BatchRefused:
    """A refusal that a contract or a dialect worded, with the file's name."""
    where = f"{file}: {error.where}" if error.where else str(file)
    return BatchRefused(
        f"{file}: {error.message}", where=where, expected=error.expected, got=error.got, hint=error.hint
    )
