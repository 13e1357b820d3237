"""Names that are safe as folders, URLs and labels, and only those."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import NameInvalid
from registry.names import check_name


@pytest.mark.parametrize("name", ["a", "flight-time", "0.9_x", "a" * 63])
def test_accepts_ordinary_names(name: str) -> None:
    """The rule of the design."""
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "../x", "a/b", "a..b", ".a", "-a", "a" * 64, "a b", "a\n", "é", "a\x00"])
def test_refuses_names_that_could_escape(name: str) -> None:
    """Traversal, separators, control characters, capital letters."""
    with pytest.raises(NameInvalid):
        check_name(name)


@given(st.text())
def test_an_accepted_name_is_one_plain_path_segment(name: str) -> None:
    """Whatever comes in: accepted means harmless."""
    try:
        accepted = check_name(name)
    except NameInvalid:
        return
    assert "/" not in accepted
    assert ".." not in accepted
    assert accepted.isascii()
    assert accepted.strip() == accepted
