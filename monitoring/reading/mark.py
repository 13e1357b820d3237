"""Where a reading of recorded rows stands; light, for processes that never read the lake."""

from __future__ import annotations

import msgspec

__all__ = ["Mark"]


class Mark(msgspec.Struct, frozen=True, order=True):
    """One row's place among the rows of a model: event time in microseconds since 1970, then number, then boot."""

    at: int
    seq: int
    boot: str
