"""Which code a run runs: part of its identity, and of its record."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from registry import __version__
from registry.errors import ConfigInvalid

__all__ = ["code_digest", "environment_digest", "function"]


def function(reference: str) -> Callable[..., Any]:
    """The user's function named `module:function`.

    Raises:
        ConfigInvalid: there is no such module or function.
    """
    module, _, name = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    # the module is the user's: whatever it raises while it is imported, it cannot be used
    except Exception as error:
        raise ConfigInvalid(
            f"'{reference}' cannot be imported: {type(error).__name__}",
            where="trainer or loader",
            expected="module:function on the worker's import path",
            hint="start the worker in the folder that holds the module",
        ) from error
    made: Callable[..., Any] = found
    return made


def code_digest(*references: str | None) -> str:
    """sha256 of the source of the modules named `module:function` and of Perene's version.

    Of these modules alone: what they import is told by the environment's digest and the commit.

    Raises:
        ConfigInvalid: there is no such module or function.
    """
    digest = hashlib.sha256(__version__.encode())
    for reference in references:
        if reference is None:
            continue
        function(reference)
        file = sys.modules[reference.partition(":")[0]].__file__
        origin = Path(file) if file else None
        digest.update(reference.encode())
        digest.update(origin.read_bytes() if origin is not None and origin.is_file() else b"")
    return digest.hexdigest()


def environment_digest() -> str:
    """sha256 of every installed distribution and its version: two runs with the same one had the same libraries."""
    named = sorted({f"{d.metadata['Name']}=={d.version}".lower() for d in distributions()})
    return hashlib.sha256("\n".join(named).encode()).hexdigest()
