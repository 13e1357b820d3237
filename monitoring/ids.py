"""Identifiers that sort by time: UUID version 7 (RFC 9562), strictly increasing inside a process."""

from __future__ import annotations

import os
import threading
import time

__all__ = ["uuid7"]

_TAIL_BITS = 74
"""Bits behind the 48-bit millisecond clock that are neither version nor variant: 12 + 62."""


class _Noise:
    """Random bytes from the system, fetched for many identifiers at once: a system call costs more than the rest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = b""
        self._at = 0

    def draw(self) -> int:
        """74 random bits."""
        with self._lock:
            if self._at >= len(self._bytes):
                self._bytes, self._at = os.urandom(10 * 256), 0
            self._at += 10
            return int.from_bytes(self._bytes[self._at - 10 : self._at], "big") >> (80 - _TAIL_BITS)

    def forget(self) -> None:
        """A forked child must not give out its parent's next identifiers."""
        self._lock = threading.Lock()
        self._bytes = b""
        self._at = 0


class _Clock:
    """The last identifier given out as (milliseconds, tail): the next one is always greater."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._millis = 0
        self._tail = 0

    def next(self, millis: int, noise: int) -> tuple[int, int]:
        """Advance to `millis`, or step from the last value when the clock stands still or went back.

        Args:
            millis: unix time in milliseconds.
            noise: 74 random bits; a step uses the lowest 32, so neighbours stay hard to guess.
        """
        with self._lock:
            if millis > self._millis:
                # The top bit starts at zero: room for steps inside one millisecond.
                self._millis, self._tail = millis, noise >> 1
            else:
                self._tail += 1 + (noise & 0xFFFFFFFF)
                if self._tail >> _TAIL_BITS:
                    self._millis, self._tail = self._millis + 1, noise >> 1
            return self._millis, self._tail


_clock = _Clock()
_noise = _Noise()
os.register_at_fork(after_in_child=_noise.forget)


def _format(millis: int, tail: int) -> str:
    """Lay out 48 bits of time, version 7, 12 bits, variant 2 and 62 bits as text."""
    high = 0x7000 | (tail >> 62)
    low = (0b10 << 62) | (tail & ((1 << 62) - 1))
    text = f"{millis:012x}{high:04x}{low:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def uuid7() -> str:
    """A new identifier, greater (as text) than every one this process made before."""
    return _format(*_clock.next(time.time_ns() // 1_000_000, _noise.draw()))
