"""The two events of the platform, a prediction and a label, and their compact wire form."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = ["Arm", "Event", "LabelEvent", "PredictionEvent", "Value", "encoder", "value_text"]

Value = float | int | str | bool | None
Arm = Literal["champion", "candidate", "fallback", "segment", "shadow", "pinned"]
"""Who answered, and why: fallback is the champion in the place of a candidate that was drawn and failed."""


class PredictionEvent(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """One answered row; a shadow answer carries the id of the served one, arm "shadow" and no features.

    `at` is event time and `received` arrival, both unix seconds; `features` are in the order of the
    contract's columns with the store/hash/drop policy already applied (dropped = None, hashed = hex text).
    `deployment` is the revision of the ledger's row that the request was routed by, and `assigned` the version that a
    trial drew for it, whoever answered then; 0 is none.
    """

    id: str
    at: float
    received: float
    model: str
    version: int
    arm: Arm
    entity: str
    features: list[Value]
    prediction: Value
    probabilities: list[float] | None
    latency_ms: float
    key: str
    deployment: int = 0
    assigned: int = 0


class LabelEvent(msgspec.Struct, frozen=True, array_like=True, tag="l"):
    """The truth about one prediction, or a revision of it; times are unix seconds.

    `outcomes` are numbers by name that came of it, such as revenue: beside the label, or instead of it (None).
    """

    prediction_id: str
    model: str
    label: float | int | str | bool | None
    at: float
    received: float
    outcomes: dict[str, float] | None = None


Event = PredictionEvent | LabelEvent


def _plain(value: Any) -> Any:
    """Turn NumPy scalars and arrays, met in answers of an engine, into plain Python values."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"an event cannot carry a {type(value).__name__}; use numbers, text, booleans or null")


def encoder() -> msgspec.msgpack.Encoder:
    """A new encoder of events; one belongs to one thread."""
    return msgspec.msgpack.Encoder(enc_hook=_plain)


def value_text(value: Value) -> str | None:
    """A class label as the lake writes it: `str` of the value, and 1.0 as "1" like the class 1."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
