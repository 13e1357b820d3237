"""Identifiers that sort by time: UUID version 7 (RFC 9562), strictly increasing inside a process."""

from __future__ import annotations

import os
import threading
import time

__all__ = ["uuid7", "uuid7s"]

_TAIL_BITS = 74
"""Bits behind the 48-bit millisecond clock that are neither version nor variant: 12 + 62."""
_LOW = (1 << 62) - 1
_STEP = 0xFFFFFFFF
_MANY = 16
"""From as many on, numpy makes identifiers for a tenth of the price."""


class _Noise:
    """Random bytes from the system, fetched for many identifiers at once: a system call costs more than the rest."""

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0

    def draw(self) -> int:
        """74 random bits."""
        if self._at >= len(self._bytes):
            self._bytes, self._at = os.urandom(10 * 256), 0
        self._at += 10
        return int.from_bytes(self._bytes[self._at - 10 : self._at], "big") >> (80 - _TAIL_BITS)


class _Clock:
    """The last identifier given out as (milliseconds, tail): the next one is always greater."""

    def __init__(self) -> None:
        self._millis = 0
        self._tail = 0

    def next(self, millis: int, noise: int, room: int = 0) -> tuple[int, int]:
        """Advance to `millis`, or step from the last value when the clock stands still or went back.

        Args:
            millis: unix time in milliseconds.
            noise: 74 random bits; a step uses the lowest 32, so neighbours stay hard to guess.
            room: how many values behind this one are taken as well.
        """
        if millis > self._millis:
            # The top bit starts at zero: room for steps inside one millisecond.
            self._millis, tail = millis, noise >> 1
        else:
            tail = self._tail + 1 + (noise & _STEP)
            if tail + room >> _TAIL_BITS:
                self._millis, tail = self._millis + 1, noise >> 1
        self._tail = tail + room
        return self._millis, tail


class _Source:
    """Clock and noise, used by one thread at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clock = _Clock()
        self.noise = _Noise()

    def forget(self) -> None:
        """A forked child must not give out its parent's next identifiers."""
        self.lock = threading.Lock()
        self.noise = _Noise()


_source = _Source()
os.register_at_fork(after_in_child=_source.forget)


def _format(millis: int, tail: int) -> str:
    """Lay out 48 bits of time, version 7, 12 bits, variant 2 and 62 bits as text."""
    low = f"{1 << 63 | tail & _LOW:x}"
    return f"{millis >> 16:08x}-{millis & 0xFFFF:04x}-{0x7000 | tail >> 62:x}-{low[:4]}-{low[4:]}"


def uuid7() -> str:
    """A new identifier, greater (as text) than every one this process made before."""
    with _source.lock:
        millis, tail = _source.clock.next(time.time_ns() // 1_000_000, _source.noise.draw())
    return _format(millis, tail)


def uuid7s(count: int) -> list[str]:
    """So many new identifiers, each greater (as text) than the one before it."""
    if count < _MANY:
        return [uuid7() for _ in range(count)]
    import numpy as np

    steps = np.frombuffer(os.urandom(4 * count), dtype=np.uint32).astype(np.uint64) + np.uint64(1)
    steps[0] = 0
    behind = np.cumsum(steps, dtype=np.uint64)
    with _source.lock:
        now, noise = time.time_ns() // 1_000_000, _source.noise.draw()
        millis, tail = _source.clock.next(now, noise, room=int(behind[-1]))
    low = behind + np.uint64(tail & _LOW)
    numbers = np.empty((count, 2), dtype=">u8")
    # the sum of 62 bits may carry into the 12 before them
    numbers[:, 0] = (low >> np.uint64(62)) + np.uint64(millis << 16 | 0x7000 | tail >> 62)
    numbers[:, 1] = low & np.uint64(_LOW) | np.uint64(1 << 63)
    digits = np.frombuffer(numbers.tobytes().hex().encode(), dtype=np.uint8).reshape(count, 32)
    text = np.full((count, 36), ord("-"), dtype=np.uint8)
    begin = 0
    for dashes, size in enumerate((8, 4, 4, 4, 12)):
        text[:, begin + dashes : begin + dashes + size] = digits[:, begin : begin + size]
        begin += size
    whole = text.tobytes().decode()
    return [whole[at : at + 36] for at in range(0, 36 * count, 36)]
