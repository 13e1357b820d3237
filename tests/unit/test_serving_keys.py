"""A key that was found good is known again by its header, for no more than the key may and no longer than it lives."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from registry.errors import NotAllowed
from serving.access import auth
from serving.access.auth import Keys
from serving.access.limits import Limits
from serving.errors import Unauthenticated
from serving.settings import LimitSettings
from serving.state import Key


def keys(folder: Path, **models: list[str]) -> Keys:
    """Keys by their secrets, each for some models."""
    given = [Key(s, hashlib.sha256(s.encode()).hexdigest(), ["predict"], named) for s, named in models.items()]
    return Keys(given, Limits(LimitSettings(), folder, largest=10))


def test_the_second_look_says_what_the_first_one_said(tmp_path: Path) -> None:
    """Good keys, keys of other models and of other scopes, and keys that are none, asked in any order."""
    known = keys(tmp_path, one=["m"], every=[])
    for _ in range(3):
        assert known.bearer(b"Bearer one", "predict", "m").id == "one"
        assert known.bearer(b"bearer  every ", "predict", "n").id == "every"
        with pytest.raises(NotAllowed, match="not for this model"):
            known.bearer(b"Bearer one", "predict", "n")
        with pytest.raises(NotAllowed, match="may not read"):
            known.bearer(b"Bearer every", "read", "n")
        with pytest.raises(Unauthenticated):
            known.bearer(b"Bearer on", "predict", "m")


def test_a_revoked_key_is_forgotten(tmp_path: Path) -> None:
    """What one hand-over's keys found, the next one's do not know."""
    assert keys(tmp_path, one=[]).bearer(b"Bearer one", "predict", "m").id == "one"
    with pytest.raises(Unauthenticated):
        keys(tmp_path, other=[]).bearer(b"Bearer one", "predict", "m")


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong keys leave nothing behind, and a good one not more than so much however it is spelt."""
    monkeypatch.setattr(auth, "_MOST_FOUND", 8)
    known = keys(tmp_path, one=[])
    for n in range(100):
        with pytest.raises(Unauthenticated):
            known.bearer(b"Bearer wrong%d" % n, "predict", "m")
    assert known._found == {}
    for n in range(100):
        assert known.bearer(b"Bearer " + b" " * n + b"one", "predict", "m").id == "one"
    assert len(known._found) <= 8
