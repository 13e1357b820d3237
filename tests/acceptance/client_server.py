"""What the tests of clients talk to: a serve process with a regression and a classification."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from registry.log import build_bundle
from tests.acceptance.test_serving_process import Server
from tests.conftest import Toy
from tests.integration.serving_toy import Cache, offset_bundle


@dataclass(frozen=True)
class Live:
    """A running server with `toy`, which answers `hour + 100`, and `is-late.v2`, whose original is beside it."""

    server: Server
    url: str
    weak_key: str
    late: Toy


@contextlib.contextmanager
def live_server(folder: Path, toy_bundle: Path, classification: Toy) -> Iterator[Live]:
    """Started and ready; `weak_key` may only predict, and only with `toy`."""
    cache = Cache(folder / "home" / "cache")
    cache.add(1, offset_bundle(toy_bundle, folder / "1", 100.0))
    late = folder / "late"
    build_bundle(classification.estimator, classification.X, classification.y, name="is-late.v2", to=late)
    cache.add(3, late, model="is-late.v2")
    key, weak = cache.key({"predict", "feedback", "read"}), cache.key({"predict"}, {"toy"})
    cache.deploy(1)
    cache.deploy(3, model="is-late.v2")
    with Server(cache.folder.parent, key) as server:
        server.ready()
        yield Live(server, f"http://127.0.0.1:{server.port}", weak, classification)
