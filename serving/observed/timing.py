"""The header `Server-Timing`: where the time of a prediction went, for a browser's or a caller's own tools."""

from __future__ import annotations

from typing import Final

_VALUE: Final = "parse;dur=%.3f, queue;dur=%.3f, infer;dur=%.3f"


def server_timing(parse_s: float, queue_s: float, infer_s: float) -> str:
    """The header's value, from seconds; its unit is the millisecond.

    >>> server_timing(0.000051, 0.00001, 0.0012)
    'parse;dur=0.051, queue;dur=0.010, infer;dur=1.200'
    """
    return _VALUE % (parse_s * 1e3, queue_s * 1e3, infer_s * 1e3)
