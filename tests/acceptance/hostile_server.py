"""A serve process for hostile requests: every limit on them at its default, one toy model, one key."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from tests.acceptance.test_serving_process import Server
from tests.hostile.requests import GOOD
from tests.integration.serving_toy import Cache, offset_bundle


@contextlib.contextmanager
def hostile_server(toy_bundle: Path, folder: Path) -> Iterator[Server]:
    """A server that has answered a request already."""
    cache = Cache(folder / "home" / "cache")
    cache.add(1, offset_bundle(toy_bundle, folder / "bundle", 100.0))
    key = cache.key({"predict", "feedback", "read"})
    cache.deploy(1)
    with Server(cache.folder.parent, key) as running:
        running.ready()
        status, body = running.ask("POST", "/predict", json.loads(GOOD))
        assert status == 200, body
        yield running
