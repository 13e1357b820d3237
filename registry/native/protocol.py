"""What a native model's process and its parent say to each other: frames of msgpack, a length in front, no pickle."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any, Final, TypeVar

import msgspec

_LENGTH: Final = struct.Struct(">Q")
MESSAGE_BYTES: Final = 64 * 1024
"""Room for what a frame holds beside arrays."""

M = TypeVar("M", bound=msgspec.Struct)


class Load(msgspec.Struct, frozen=True):
    """The first frame: the model itself, so that the child reads no path."""

    contract: dict[str, Any]
    file: str
    data: bytes
    allow_pickle: bool
    memory_mb: int


class Ask(msgspec.Struct, frozen=True):
    """Rows to predict: `numbers` is float64 [rows, F] in row order."""

    rows: int
    numbers: bytes
    strings: list[list[str]]


class Reply(msgspec.Struct, frozen=True):
    """Float64 values [rows, C] and, of a classification, positions of classes as int64 [rows]; or an error."""

    values: bytes = b""
    labels: bytes = b""
    error: str = ""


class Broken(Exception):
    """The other end is gone, or said what is not in the protocol."""


def send(link: socket.socket, message: msgspec.Struct, deadline: float | None = None) -> None:
    """Send one frame.

    Raises:
        TimeoutError: it was not taken before `deadline` (monotonic seconds).
        OSError: the other end is gone.
    """
    body = msgspec.msgpack.encode(message)
    link.settimeout(_left(deadline))
    link.sendall(_LENGTH.pack(len(body)))
    link.sendall(body)


def receive(link: socket.socket, kind: type[M], *, most: int | None = None, deadline: float | None = None) -> M:
    """Receive one frame of at most `most` bytes.

    Raises:
        TimeoutError: it did not come before `deadline`.
        Broken: the other end is gone, the frame is too large, or it is not a `kind`.
    """
    (length,) = _LENGTH.unpack(_exactly(link, _LENGTH.size, deadline))
    if most is not None and length > most:
        raise Broken("the frame is too large")
    try:
        return msgspec.msgpack.decode(_exactly(link, length, deadline), type=kind)
    except msgspec.DecodeError as error:
        raise Broken("the frame is not what was expected") from error


def _exactly(link: socket.socket, count: int, deadline: float | None) -> bytearray:
    body = bytearray(count)
    rest = memoryview(body)
    while rest:
        link.settimeout(_left(deadline))
        try:
            got = link.recv_into(rest)
        except ConnectionError as error:
            raise Broken("the other end is gone") from error
        if got == 0:
            raise Broken("the other end is gone")
        rest = rest[got:]
    return body


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.001, deadline - time.monotonic())
