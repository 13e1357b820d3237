"""What a packed body would take once unpacked, told before it is: PyArrow believes the sizes that a body declares.

Both formats are read here just as far as their sizes go, by their published layouts.
"""

from __future__ import annotations

import struct
from mmap import mmap
from typing import Any, Final

from serving.errors import Malformed, TooLarge

_RECORD_BATCH, _DICTIONARY_BATCH = "record batch", "dictionary"
_LEGACY: Final = b"ARROW:experimental_compression"
_DELTA_BYTE_ARRAY: Final = 7
"""A Parquet encoding in which each text may repeat the one before it: a few bytes become any number."""
_MOST_DEPTH: Final = 8
_MOST_PARTS: Final = 10_000
"""Batches of a stream, or pages of a file: each costs time, however small it is."""
_MOST_HEAD: Final = 64 * 1024
"""Bytes of the header of a page."""
_MOST_FOOTER: Final = 2 * 1024 * 1024


def refuse_packed_arrow(data: bytes) -> None:
    """Refuse a stream with compressed buffers: nothing bounds what they become.

    Raises:
        Malformed: with what to do instead.
    """
    import pyarrow as pa

    for n, message in enumerate(pa.ipc.MessageReader.open_stream(pa.py_buffer(data))):
        if n > _MOST_PARTS:
            raise _too_many()
        metadata = message.metadata.to_pybytes()
        if _LEGACY in metadata or (
            message.type in (_RECORD_BATCH, _DICTIONARY_BATCH) and _has_codec(metadata, message.type)
        ):
            raise Malformed(
                "compressed Arrow buffers are not read", where="body", expected="an Arrow stream without compression"
            )


def _has_codec(metadata: bytes, kind: str) -> bool:
    """Whether a batch names a codec: the fourth field of its table in the message's third."""
    try:
        batch = _table(metadata, _field(metadata, _table(metadata, 0), 2))
        if kind == _DICTIONARY_BATCH:
            batch = _table(metadata, _field(metadata, batch, 1))
        return _field(metadata, batch, 3) != 0
    except (struct.error, IndexError):
        raise Malformed("the body is a damaged Arrow stream", where="body", expected="an Arrow stream") from None


def _table(data: bytes, place: int) -> int:
    return place + _unsigned(data, place, 4)


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table is; 0 where the table has not got it."""
    layout = table - struct.unpack_from("<i", data, table)[0]
    slot = 4 + 2 * number
    if slot + 2 > _unsigned(data, layout, 2):
        return 0
    offset = _unsigned(data, layout + slot, 2)
    return table + offset if offset else 0


def _unsigned(data: bytes, place: int, size: int) -> int:
    if not 0 <= place <= len(data) - size:
        raise IndexError
    return int.from_bytes(data[place : place + size], "little")


def check_pages(data: bytes | mmap, most: int, *, most_pages: int = _MOST_PARTS) -> None:
    """Refuse a Parquet file whose pages would unpack to more than `most` bytes, whatever its footer says of them.

    PyArrow could tell where the pages are, but it ends the process on some footers that it cannot make sense of.

    Raises:
        TooLarge: they would.
        Malformed: the pages are not where the footer says, or an encoding that nothing bounds.
    """
    total = pages = 0
    for first, end in _chunks(data):
        place = first
        if not 0 < place <= end <= len(data):
            raise _damaged()
        while place < end:
            page, begin = _Thrift(data, place, _MOST_HEAD).struct()
            unpacked, packed = page.get(2), page.get(3)
            if not isinstance(unpacked, int) or not isinstance(packed, int) or min(unpacked, packed) < 0:
                raise _damaged()
            pages += 1
            total += unpacked
            place = begin + packed
            if pages > most_pages:
                raise _too_many()
            if total > most:
                raise TooLarge("the body unpacks to too much", where="body", expected=f"at most {most} bytes")
            if _encoding(page) == _DELTA_BYTE_ARRAY:
                raise Malformed("the encoding DELTA_BYTE_ARRAY is not read", where="body", expected="PLAIN")


def _chunks(data: bytes | mmap) -> list[tuple[int, int]]:
    """Where the pages of each column of each group of rows begin and end, by the footer."""
    size = int.from_bytes(data[-8:-4], "little")
    if len(data) < 12 or data[-4:] != b"PAR1" or size > len(data) - 8:
        raise _damaged()
    footer, _ = _Thrift(data, len(data) - 8 - size, min(size, _MOST_FOOTER)).struct()
    found: list[tuple[int, int]] = []
    for group in _structs(footer.get(4)):
        for chunk in _structs(group.get(1)):
            about = chunk.get(3)
            if not isinstance(about, dict) or chunk.get(1) is not None:
                raise _damaged()  # a column that another file holds
            if about.get(5) == 0:
                continue  # without values no page of it is read
            length, place, words = (about.get(number) for number in (7, 9, 11))
            if not isinstance(length, int) or not isinstance(place, int) or length < 0:
                raise _damaged()
            if isinstance(words, int) and 0 < words < place:
                place = words  # a dictionary comes before the pages that use it
            found.append((place, place + length))
    return found


def _structs(value: Any) -> list[dict[int, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _damaged()
    return value


def _encoding(page: dict[int, Any]) -> Any:
    """Of the values of a data page: the second field of its header, the fourth in version 2."""
    first, second = page.get(5), page.get(8)
    if isinstance(first, dict):
        return first.get(2)
    return second.get(4) if isinstance(second, dict) else None


def _too_many() -> Malformed:
    return Malformed("the body is in too many parts", where="body", expected=f"at most {_MOST_PARTS} batches or pages")


def _damaged() -> Malformed:
    return Malformed("the body is a damaged Parquet file", where="body", expected="a Parquet file")


class _Thrift:
    """A struct in Thrift's compact protocol, of at most so many bytes: its fields by their numbers."""

    def __init__(self, data: bytes | mmap, place: int, most: int) -> None:
        self._data = data
        self._place = place
        self._end = min(len(data), place + most)

    def struct(self) -> tuple[dict[int, Any], int]:
        """The struct, and where it ends.

        Raises:
            Malformed: it is none.
        """
        try:
            return self._struct(0), self._place
        except IndexError:
            raise _damaged() from None

    def _struct(self, depth: int) -> dict[int, Any]:
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            # a boolean field is its own value
            found[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        """A value that is no boolean field; in lists a boolean is a byte as well."""
        if depth > _MOST_DEPTH:
            raise IndexError
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind == 12:
            return self._struct(depth + 1)
        if kind in (9, 10):
            head = self._byte()
            size = head >> 4 if head >> 4 != 15 else self._varint()
            return [self._value(head & 15, depth + 1) for _ in self._counted(size)]
        if kind not in (7, 8, 13):
            raise IndexError
        return self._bytes(self._varint() if kind == 8 else 8 if kind == 7 else 16)

    def _counted(self, size: int) -> range:
        """A list takes a byte or more for each of its elements, whatever it says of their number."""
        if size > self._end - self._place:
            raise IndexError
        return range(size)

    def _bytes(self, count: int) -> bytes:
        self._place += count
        if self._place > self._end:
            raise IndexError
        return self._data[self._place - count : self._place]

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise IndexError

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
