"""What an erasure has done so far, on disk before it does more: killed at any moment, the next one counts on."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from perene.erasure.places import Item

__all__ = ["Work", "unfinished"]

SUFFIX = ".work"


@dataclass
class Work:
    """A journal of lines; one that a crash cut short counts as not written."""

    path: Path
    items: dict[tuple[str, str, str], Item] = field(default_factory=dict)
    stones: dict[str, None] = field(default_factory=dict)
    since: float = float("inf")

    @classmethod
    def open(cls, folder: Path, name: str) -> Work:
        """Begin, or go on with what a crash left."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        work = cls(folder / f"{name}{SUFFIX}")
        lines = work.path.read_bytes().split(b"\n") if work.path.exists() else []
        for line in lines[:-1]:
            try:
                work._take(json.loads(line))
            except ValueError:  # cut short by a loss of power, and then gone on with
                continue
        if lines and lines[-1]:
            work._append(b"\n")
        return work

    def plan(self, item: Item) -> None:
        """Write down what is about to go."""
        if (item.place, item.name, item.key) not in self.items:
            self._note({"item": asdict(item)})

    def stone(self, name: str) -> None:
        """Write down a tombstone."""
        if name not in self.stones:
            self._note({"stone": name})

    def first(self, since: float) -> None:
        """Write down when the earliest of the rows was received."""
        if since < self.since:
            self._note({"since": since})

    def end(self) -> None:
        """The receipt is written: nothing is left to go on with."""
        self.path.unlink(missing_ok=True)

    def _note(self, line: dict[str, Any]) -> None:
        self._append(json.dumps(line).encode() + b"\n")
        self._take(line)

    def _append(self, data: bytes) -> None:
        with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _take(self, line: dict[str, Any]) -> None:
        if "item" in line:
            item = Item(**line["item"])
            self.items[item.place, item.name, item.key] = item
        elif "stone" in line:
            self.stones[line["stone"]] = None
        else:
            self.since = min(self.since, float(line["since"]))


def unfinished(folder: Path) -> list[Path]:
    """Erasures that a crash ended before their receipt."""
    return sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
