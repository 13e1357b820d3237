"""Perene keeps classic ML models alive in production: log, certify, serve, watch, retrain, promote.

`import perene` is light; a name's module is imported when the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from registry import __version__ as __version__

if TYPE_CHECKING:
    from monitoring.api import events
    from perene.api import log_model, rollback
    from perene.client import Client
    from registry.log import Facts, ModelVersion

__all__ = ["Client", "Facts", "ModelVersion", "events", "log_model", "rollback"]

_HOME = {
    "Client": "perene.client",
    "Facts": "registry.log",
    "ModelVersion": "registry.log",
    "events": "perene.api",
    "log_model": "perene.api",
    "rollback": "perene.api",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'perene' has no attribute '{name}'")
