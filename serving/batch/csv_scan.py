"""One fast look through a whole CSV file before any work: what no reader would take, with its line."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from serving.batch.input_file import InputFile
from serving.batch.refusals import FileUnsound

BLOCK: Final = 1024 * 1024
"""Every block of this size must hold the end of a line: a longer line is no row."""
_BEFORE: Final = tuple(b',\n"')
_AFTER: Final = tuple(b',\r\n"')
_BOM: Final = b"\xef\xbb\xbf"


def scan(file: InputFile) -> tuple[list[str], int, int]:
    """The names of the columns, and the byte and line at which the first row begins.

    Raises:
        FileUnsound: not UTF-8, NUL, an endless line, a quote that is not closed, no header, or no rows.
    """
    decode = codecs.getincrementaldecoder("utf-8")()
    line, quotes, stray = 1, 0, False
    for block in _blocks(file):
        nul = block.find(b"\0")
        if nul >= 0:
            raise csv_refused(file, line + block.count(b"\n", 0, nul), "a NUL byte", "CSV in UTF-8")
        try:
            decode.decode(block)
        except UnicodeDecodeError as error:
            raise csv_refused(file, line + block.count(b"\n", 0, error.start), "not UTF-8", "CSV in UTF-8") from None
        if len(block) == BLOCK and b"\n" not in block:
            raise csv_refused(file, line, "a line longer than a MiB", "a row on each line")
        quotes += _count(block, '"')
        if b"\r" in block:
            stray = stray or block.count(b"\r") > block.count(b"\r\n") + block.endswith(b"\r")
        line += _count(block, "\n")
    if decode.getstate()[0]:
        raise csv_refused(file, line, "not UTF-8: it ends inside of a character", "CSV in UTF-8")
    if quotes % 2:
        raise csv_refused(file, _unclosed(file), "a quote that is not closed", 'quotes in pairs, "" for one in a text')
    if stray and not quotes:
        raise csv_refused(file, _stray(file), "a carriage return inside of a line", "lines that end in LF or CRLF")
    return _header(file)


def csv_refused(file: InputFile, line: int, what: str, expected: str, hint: str = "mend this line") -> FileUnsound:
    """The refusal of a file for one of its lines."""
    place = f"{file.path}:{line}"
    return FileUnsound(f"{place}: {what}", where=place, expected=expected, hint=hint)


def record_ends(data: bytes) -> np.ndarray[Any, Any]:
    """Where records end in `data`, which begins with one: after each line feed that is not inside of quotes."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    if b'"' in data:
        quotes = np.flatnonzero(np.frombuffer(data, np.uint8) == ord('"'))
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    return ends


def are_plain_quotes(data: bytes) -> bool:
    """Whether quotes stand around whole cells or are doubled inside of them, so that every reader agrees on them."""
    around = np.frombuffer(b"\n" + data + b"\n", np.uint8)
    quotes = np.flatnonzero(around == ord('"'))
    before, after = around[quotes[::2] - 1], around[quotes[1::2] + 1]
    return bool(np.isin(before, _BEFORE).all() and np.isin(after, _AFTER).all())


def _count(block: bytearray, letter: str) -> int:
    """Several times faster than the method of bytes, where there are many."""
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord(letter)))


def _blocks(file: InputFile) -> Iterator[bytearray]:
    """The bytes of the file; memory for them is asked for once."""
    place, block = 0, bytearray(BLOCK)
    while size := os.preadv(file.fd, [block], place):
        yield block if size == BLOCK else block[:size]
        place += size


def _header(file: InputFile) -> tuple[list[str], int, int]:
    data = os.pread(file.fd, BLOCK, 0)
    begin = len(_BOM) if data.startswith(_BOM) else 0
    ends = record_ends(data[begin:])
    size = int(ends[0]) if len(ends) else len(data) - begin
    head = data[begin : begin + size].decode("utf-8", errors="replace")
    try:
        names = next(csv.reader(io.StringIO(head, newline=""), strict=True), [])
    except csv.Error:
        raise csv_refused(file, 1, "the header is not CSV", "names separated by commas") from None
    if not any(name.strip() for name in names):
        raise csv_refused(file, 1, "there is no header", "the names of the columns, separated by commas")
    if len(names) == 1:
        other = next((mark for mark in (";", "\t", "|") if mark in names[0]), None)
        if other is not None:
            shown = "a tab" if other == "\t" else f"'{other}'"
            raise csv_refused(file, 1, f"columns are separated by {shown}", "commas", "write the file with commas")
    rest = data[begin + size :]
    if not rest.strip() and file.size <= len(data):
        raise csv_refused(file, 1, "there are no rows below the header", "1 or more", "give a file with rows")
    return names, begin + size, 1 + head.count("\n")


def _unclosed(file: InputFile) -> int:
    """The line of a quote that is not closed: a slow look, for a file that is refused."""
    with os.fdopen(os.dup(file.fd), "rb") as raw:
        raw.seek(0)
        lines = csv.reader(io.TextIOWrapper(raw, "utf-8-sig", newline=""), strict=True)
        begun = 1
        try:
            for _ in lines:
                begun = lines.line_num + 1
        except csv.Error:
            return begun
    return next((n for n, line in enumerate(_lines(file), 1) if line.count(b'"') % 2), 1)


def _stray(file: InputFile) -> int:
    return next((n for n, line in enumerate(_lines(file), 1) if b"\r" in line.rstrip(b"\r\n")), 1)


def _lines(file: InputFile) -> Iterator[bytes]:
    with os.fdopen(os.dup(file.fd), "rb") as raw:
        raw.seek(0)
        yield from raw
