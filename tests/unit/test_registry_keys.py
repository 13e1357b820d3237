"""API keys: what tells a mistyped one, and limits of their own."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import ConfigInvalid
from registry.keys import SCOPES, KeyLimits, digest, new_key, well_formed

SECRET = new_key("shop", {"predict"})[0]


def test_a_key_says_its_id_and_checks_itself() -> None:
    """The id of the ledger's row is in it; only the digest is kept."""
    secret, record = new_key("shop", {"predict"}, {"toy"}, limits=KeyLimits(rows_per_day=5))
    assert re.fullmatch(r"prn_[0-9a-f]{8}_[A-Za-z0-9_-]{43}[0-9a-f]{8}", secret)
    assert secret.split("_")[1] == record.id
    assert record.sha256 == digest(secret)
    assert well_formed(secret)
    assert record.limits.given() == {"rows_per_day": 5}


@given(st.integers(0, len(SECRET) - 1), st.characters(codec="ascii"))
def test_a_mistyped_key_is_told(place: int, letter: str) -> None:
    """Any one character that is another one."""
    mistyped = SECRET[:place] + letter + SECRET[place + 1 :]
    assert well_formed(mistyped) == (mistyped == SECRET)


@given(st.integers(0, len(SECRET) - 2), st.integers(0, len(SECRET)))
def test_swapped_and_cut_keys_are_told(place: int, length: int) -> None:
    """Two neighbours that changed places; and all that was cut, but for one length: that of keys without digits."""
    swapped = SECRET[:place] + SECRET[place + 1] + SECRET[place] + SECRET[place + 2 :]
    assert well_formed(swapped) == (swapped == SECRET)
    assert well_formed(SECRET[:length]) == (length in (len(SECRET), len(SECRET) - 8))


def test_a_key_of_0_1_0_stays_one() -> None:
    """It has no check digits."""
    assert well_formed("prn_1a2b3c4d_" + "x" * 43)
    assert not well_formed("prn_1a2b3c4d_" + "x" * 51)


@pytest.mark.parametrize("scopes", [set[str](), {"predict", "everything"}])
def test_scopes_are_those_that_there_are(scopes: set[str]) -> None:
    """The message has them."""
    with pytest.raises(ConfigInvalid) as found:
        new_key("shop", scopes)
    assert found.value.expected == "admin alert erase feedback predict promote read register"
    assert frozenset(found.value.expected.split()) == SCOPES


@pytest.mark.parametrize("limit", [-1.0, float("nan"), float("inf")])
def test_a_limit_is_a_number(limit: float) -> None:
    """Refused by its name."""
    with pytest.raises(ConfigInvalid) as found:
        KeyLimits(requests_per_second=limit)
    assert found.value.where == "requests_per_second"
