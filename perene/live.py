"""The live view of a demo: panels on a terminal, one line per happening in a pipe."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from perene.output import say, talk
from perene.story import Line

_COLOURS = {"finding": "yellow", "run": "cyan", "gates": "magenta", "decision": "green", "deployment": "bold white"}
LINE_EVERY_S = 10.0
"""In a pipe, how often the numbers are printed."""


@dataclass
class View:
    """Shows numbers and happenings; `with View(title) as view: view.update(...)`."""

    title: str
    plain: bool = field(default_factory=lambda: not sys.stderr.isatty())
    _lines: deque[Line] = field(default_factory=lambda: deque(maxlen=14))
    _live: Live | None = None
    _numbers: Mapping[str, str] = field(default_factory=dict)
    _printed: float = 0.0

    def __enter__(self) -> View:
        if not self.plain:
            self._live = Live(self._render(), console=talk, refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._render())
            self._live.stop()

    def update(self, numbers: Mapping[str, str], lines: list[Line]) -> None:
        """Show the newest numbers, and lines that were not shown before."""
        self._numbers = numbers
        self._lines.extend(lines)
        if self._live is not None:
            self._live.update(self._render())
            return
        for line in lines:
            say(f"[{line.model}] {line.text}")
        now = time.monotonic()
        if now - self._printed >= LINE_EVERY_S:
            self._printed = now
            say("; ".join(f"{name} {value}" for name, value in numbers.items()))

    def _render(self) -> Panel:
        numbers = Table.grid(padding=(0, 2))
        for name, value in self._numbers.items():
            numbers.add_row(Text(name, style="dim"), Text(value))
        happened = Text()
        for line in self._lines:
            happened.append(f"{line.text}\n", style=_COLOURS.get(line.kind, ""))
        return Panel(Group(numbers, Text(""), happened), title=self.title, border_style="blue")
