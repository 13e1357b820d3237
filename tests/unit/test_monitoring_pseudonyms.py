"""Pseudonyms: one secret for a home, whoever asks first; and nobody without it can make them."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from monitoring.intake.blocks import Answered, block_of_answers, by_policy
from monitoring.intake.pseudonyms import Pseudonyms, load_pseudonyms, plain
from registry.contract import Column, Contract, Output
from registry.errors import ConfigInvalid, StoreUnavailable

CONTRACT = Contract("m", (Column("phone", "string", policy="hash"), Column("x", "float")), Output("regression"))


def test_all_who_start_at_once_get_the_same_secret(tmp_path: Path) -> None:
    """One file, readable by its owner only, and nothing beside it."""
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: load_pseudonyms(tmp_path)("anna"), range(64)))
    assert len(found) == 1
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["subjects"]
    assert stat.S_IMODE((tmp_path / "keys" / "subjects").stat().st_mode) == 0o600
    assert found == {load_pseudonyms(tmp_path)("anna")}


def test_homes_differ_unless_they_name_one_secret(tmp_path: Path) -> None:
    """A shared file makes the same pseudonyms everywhere; trailing newlines are no part of it."""
    shared = tmp_path / "shared"
    shared.write_text("0123456789abcdef0123456789abcdef\n")
    one, two = tmp_path / "one", tmp_path / "two"
    assert load_pseudonyms(one)("anna") != load_pseudonyms(two)("anna")
    assert load_pseudonyms(one, shared)("anna") == load_pseudonyms(two, shared)("anna")
    assert load_pseudonyms(one, shared)("anna") == Pseudonyms(b"0123456789abcdef0123456789abcdef")("anna")


def test_a_secret_that_is_named_is_never_made(tmp_path: Path) -> None:
    """A slip in its path must not give everybody new pseudonyms; nor does a folder that cannot be written."""
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load_pseudonyms(tmp_path, tmp_path / "missing")
    (tmp_path / "short").write_text("secret\n")
    with pytest.raises(ConfigInvalid, match="too short") as caught:
        load_pseudonyms(tmp_path, tmp_path / "short")
    assert "secret\n" not in str(caught.value)
    (tmp_path / "keys").write_text("not a folder")
    with pytest.raises(StoreUnavailable):
        load_pseudonyms(tmp_path)


def test_entities_and_hashed_columns_go_under_the_secret() -> None:
    """In what the spool keeps and in what its journal keeps; without a secret they are those of version 0.1."""
    digest = Pseudonyms(b"0123456789abcdef0123456789abcdef")
    given = Answered(CONTRACT, 1, "champion", 1.0, 1.0, "anna", "", 1.0, ["i"], [("5", 1.0)], [1.0], None)
    for made in (digest, plain):
        block = block_of_answers([1], [given], made)
        assert (block.entity, block.features[0]) == ([made("anna")], [made("5")])
        entity, rows = by_policy(given, made)
        assert (entity, rows[0][0]) == (made("anna"), made("5"))
    assert plain("anna") != digest("anna")


def test_any_text_has_a_pseudonym() -> None:
    """Also one that is no valid Unicode, as a header may hold it."""
    digest = Pseudonyms(b"0123456789abcdef0123456789abcdef")
    found = {digest(text) for text in ("", "\ud800", "Zoë", "x" * 10_000)}
    assert {len(name) for name in found} == {16}
    assert len(found) == 4
