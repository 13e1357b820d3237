"""Perene keeps classic ML models alive in production: log, certify, serve, watch, retrain, promote.

`import perene` is light; a name's module is imported when the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from registry import __version__ as __version__

if TYPE_CHECKING:
    from monitoring.reading.api import events
    from perene.adoption import adopt, certify
    from perene.api import labels, log_model, promote, rollback
    from perene.client import AsyncClient, Client
    from perene.versions import inspect, models
    from registry.facts import Facts

__all__ = [
    "AsyncClient",
    "Client",
    "Facts",
    "adopt",
    "certify",
    "events",
    "inspect",
    "labels",
    "log_model",
    "models",
    "promote",
    "rollback",
]

_HOME = {
    "AsyncClient": "perene.client",
    "Client": "perene.client",
    "Facts": "registry.facts",
    "adopt": "perene.adoption",
    "certify": "perene.adoption",
    "events": "perene.api",
    "inspect": "perene.versions",
    "labels": "perene.api",
    "log_model": "perene.api",
    "models": "perene.versions",
    "promote": "perene.api",
    "rollback": "perene.api",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'perene' has no attribute '{name}'")
