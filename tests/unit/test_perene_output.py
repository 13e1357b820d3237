"""What commands print: texts that callers of the API chose neither steer a terminal nor look like other rows."""

from __future__ import annotations

import json
import sys

import pytest

from perene.output import emit, fail, say
from registry.errors import ConfigInvalid

HOSTILE = "x\x1b]0;owned\x07\x1b[31m\u202e\r[/b]\ta\nb"


def test_a_cell_is_one_cell_and_no_command_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe a row stays a row; JSON escapes by itself and loses nothing."""
    emit([{"a": HOSTILE, "b": 1}], as_json=False, columns=("a", "b"))
    emit({"a": HOSTILE}, as_json=False)
    say(HOSTILE)
    fail(ConfigInvalid(HOSTILE, where=HOSTILE), as_json=False)
    said = capsys.readouterr()
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(said.out + said.err)
    row = said.out.splitlines()[0]
    assert row.count("\t") == 1
    assert row.endswith("a b\t1")
    emit({"a": HOSTILE}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": HOSTILE}


def test_a_table_on_a_terminal_shows_brackets_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are no markup: an end without a beginning would be an error."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    emit([{"a": "[/b][red]x"}], as_json=False, columns=("a",))
    assert "[/b][red]x" in capsys.readouterr().out
