"""Events: wire form and text of class labels."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from monitoring.intake.blocks import decode
from monitoring.intake.events import LabelEvent, PredictionEvent, encoder, value_text


def _prediction(**change: Any) -> PredictionEvent:
    event = PredictionEvent(
        id="a",
        at=1.5,
        received=2.5,
        model="m",
        version=3,
        arm="champion",
        entity="",
        features=[1.0, 7, None, True, "x", 2**53 + 1],
        prediction=0.25,
        probabilities=None,
        latency_ms=0.5,
        key="k",
    )
    return msgspec.structs.replace(event, **change)


@pytest.mark.parametrize(
    "event",
    [
        _prediction(),
        _prediction(arm="shadow", features=[], prediction=None, probabilities=[0.1, 0.9]),
        LabelEvent("a", "m", "yes", 1.0, 2.0),
        LabelEvent("a", "m", True, 1.0, 2.0),
    ],
)
def test_round_trip_keeps_values_and_types(event: PredictionEvent | LabelEvent) -> None:
    """What is decoded equals what was encoded, down to the type of each value."""
    assert repr(decode(encoder().encode(event))) == repr(event)


def test_not_a_number_survives() -> None:
    """NaN in a feature stays NaN."""
    found = decode(encoder().encode(_prediction(features=[math.nan])))
    assert isinstance(found, PredictionEvent)
    assert isinstance(found.features[0], float)
    assert math.isnan(found.features[0])


def test_numpy_scalars_become_plain_values() -> None:
    """An engine's float32 and int64 are written as numbers."""
    event = _prediction(prediction=np.float32(0.5), features=[np.int64(3)], probabilities=np.array([0.5, 0.5]))
    found = decode(encoder().encode(event))
    assert repr(found) == repr(_prediction(prediction=0.5, features=[3], probabilities=[0.5, 0.5]))


def test_unknown_type_is_refused() -> None:
    """A value of another type is an error that names the type."""
    with pytest.raises(TypeError, match="cannot carry a object"):
        encoder().encode(_prediction(features=[object()]))


def test_foreign_bytes_are_refused() -> None:
    """Bytes that are not an event do not decode."""
    with pytest.raises(msgspec.DecodeError):
        decode(b"\x93\x01\x02\x03")


@pytest.mark.parametrize(
    ("value", "text"), [("a", "a"), (1, "1"), (1.0, "1"), (True, "True"), (0.5, "0.5"), (None, None)]
)
def test_text_of_a_label(value: Any, text: str | None) -> None:
    """A label reads like `str` of the class it names."""
    assert value_text(value) == text
