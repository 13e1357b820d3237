"""Model names: one rule, checked wherever a name enters the platform."""

from __future__ import annotations

import re
from typing import Final

from registry.errors import NameInvalid

_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")


def check_name(name: str) -> str:
    """Return `name` if it is a valid model name.

    The rule keeps a name safe as a folder, a URL segment, a metric label and an MLflow registered model.

    Raises:
        NameInvalid: the name does not match the rule, or climbs folders with `..`.
    """
    if not is_name(name):
        raise NameInvalid(
            "the model name is not valid",
            where="name",
            expected="1-63 characters of a-z 0-9 . _ -, starting with a letter or digit, without '..'",
            hint="for example 'flight-time'",
        )
    return name


def is_name(name: object) -> bool:
    """Whether `check_name` takes it."""
    return isinstance(name, str) and _PATTERN.match(name) is not None and ".." not in name
