"""How commands speak: data on stdout (a table or JSON), talk on stderr, progress as lines."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from registry.errors import PereneError

out = Console(highlight=False, soft_wrap=True)
talk = Console(stderr=True, highlight=False, soft_wrap=True)
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What a terminal obeys, and what turns the order of letters: callers of the API choose texts that operators read."""
_SPACES: Final = {ord("\t"): " ", ord("\n"): " "}
"""What would make one cell look like several, or one row."""


def say(text: str) -> None:
    """One line for the person, on stderr."""
    talk.print(_harmless(text), markup=False)


def progress(step: str, found: str) -> None:
    """A step that is done, on stderr."""
    talk.print(f"  [green]✓[/green] {step}: ", end="")
    talk.print(_harmless(found), markup=False)


def show(text: str) -> None:
    """Somebody else's text on stdout, without what a terminal would obey."""
    sys.stdout.write(_harmless(text))


def emit(data: Any, *, as_json: bool, columns: Sequence[str] = ()) -> None:
    """Data on stdout: JSON when asked for, otherwise a table of `columns` (rows) or `key: value` lines."""
    if as_json:
        sys.stdout.write(json.dumps(data, default=_plain) + "\n")
        return
    if isinstance(data, Mapping):
        for key, value in data.items():
            out.print(f"{key}: {_text(value)}", markup=False)
        return
    _table(data, columns)


def fail(error: PereneError, *, as_json: bool) -> None:
    """An error on stderr, with the fix."""
    if as_json:
        facts = {"code": error.code, "message": error.message, "where": error.where, "hint": error.hint}
        sys.stderr.write(json.dumps({"error": facts}) + "\n")
        return
    say(f"error: {error.message}")
    for name in ("where", "expected", "got", "hint"):
        value = getattr(error, name)
        if value:
            say(f"  {name}: {value}")


def _table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    rows = list(rows)
    if not sys.stdout.isatty():
        for row in rows:
            # not through rich, which turns tabs into spaces: reasons hold spaces, so columns could not be told apart
            cells = (_text(row.get(column)).translate(_SPACES) for column in columns)
            sys.stdout.write("\t".join(cells) + "\n")
        return
    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*(Text(_text(row.get(column))) for column in columns))  # a bare text would be markup
    out.print(table)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value, default=_plain) if isinstance(value, (dict, list)) else _harmless(str(value))


def _harmless(text: str) -> str:
    return _CONTROL.sub("\ufffd", text)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)
