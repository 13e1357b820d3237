"""Fixtures of the tests of the HTTP application."""

from __future__ import annotations

from pathlib import Path

import pytest

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
