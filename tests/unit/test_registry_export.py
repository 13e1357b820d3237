"""Thresholds as float32: the decision of every float32 input stays the same."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from registry.export.rounding import float32_floor


@given(
    st.floats(-1e30, 1e30, allow_nan=False),
    st.floats(-(2.0**99), 2.0**99, width=32, allow_nan=False),
)
def test_floor_decides_as_the_original(threshold: float, x: float) -> None:
    """`float32(x) <= t32` equals `float64(x) <= t64` for every float32 x."""
    rounded = float32_floor(np.array([threshold]))[0]
    assert (np.float32(x) <= np.float32(rounded)) == (np.float64(x) <= threshold)


@given(st.floats(-1e30, 1e30, allow_nan=False))
def test_floor_decides_as_the_original_at_its_neighbours(threshold: float) -> None:
    """The adversarial inputs are the float32 numbers around the threshold."""
    near = np.float32(threshold)
    rounded = np.float32(float32_floor(np.array([threshold]))[0])
    for x in (near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))):
        assert (x <= rounded) == (np.float64(x) <= threshold)


def test_rounding_to_nearest_would_be_wrong() -> None:
    """The control: what the public converter does flips a decision."""
    threshold = 0.1  # its nearest float32 lies above it
    x = np.float32(0.1)
    assert (x <= np.float32(threshold)) != (np.float64(x) <= threshold)
