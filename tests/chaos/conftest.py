"""Fixtures of the chaos tests that those of the HTTP application have too."""

from __future__ import annotations

from tests.integration.conftest import offsets

__all__ = ["offsets"]
