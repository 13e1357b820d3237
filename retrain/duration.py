"""Durations in settings: text such as "14d"."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from registry.errors import ConfigInvalid
from retrain.training.windows import LONGEST, parse_duration

__all__ = ["Duration", "read_duration"]


def read_duration(value: object) -> object:
    """Our own spelling first; the ISO 8601 of a dumped setting is left to pydantic."""
    if not isinstance(value, str) or value.startswith("P"):
        return value
    try:
        return parse_duration(value)
    except ConfigInvalid as error:
        raise ValueError(str(error)) from error


def _bounded(found: timedelta) -> timedelta:
    """Numbers and ISO 8601 too are spans that can be added to a date."""
    if not timedelta() <= found <= LONGEST:
        raise ValueError("a duration is at least 0s and at most 36500d")
    return found


Duration = Annotated[timedelta, BeforeValidator(read_duration), AfterValidator(_bounded)]
