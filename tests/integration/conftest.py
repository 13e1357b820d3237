"""Fixtures of the tests of the HTTP application."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.dialect_models import make_bundles
from tests.integration.serving_app import SCOPES
from tests.integration.serving_toy import (
    Cache,
    offset_bundle,
)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture(scope="session")
def offsets(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Versions 1 and 2 answer `hour + 100` and `hour + 200`."""
    folder = tmp_path_factory.mktemp("offsets")
    return {n: offset_bundle(toy_bundle, folder / str(n), 100.0 * n) for n in (1, 2)}


@pytest.fixture(scope="session")
def kinds(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle for each kind of contract."""
    return make_bundles(toy_bundle, tmp_path_factory.mktemp("kinds"))


@pytest.fixture
def every(cache: Cache, kinds: dict[str, Path]) -> tuple[Cache, str]:
    """A cache with a model of each kind deployed, and a key."""
    for name, bundle in kinds.items():
        cache.add(1, bundle, model=name)
    key = cache.key(SCOPES)
    for name in kinds:
        cache.deploy(1, model=name)
    return cache, key
