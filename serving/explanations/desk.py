"""Explanations as the event loop asks for them: one at a time in a thread, few that wait, and what is known already."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from serving.errors import Overloaded
from serving.explanations.messages import Ask, Item, Told
from serving.explanations.process import ExplainProcess
from serving.settings import ServingSettings

WAITING: Final = 8
"""Requests that may wait for the one that is being explained."""
KEPT_S: Final = 600.0
"""An explanation is kept for so long: what is erased from the log is explained no more after that."""
KEPT_BYTES: Final = 16 * 1024 * 1024
"""A model may have thousands of columns."""
Name = tuple[str, str, str, str]
"""Of a kept explanation: model, the digest asked for or nothing, method and id."""


class Explanations:
    """The child of one serving process, and the explanations of recorded predictions that it gave last."""

    def __init__(self, home: Path, lake: Path | str, settings: ServingSettings) -> None:
        self.settings = settings.explain
        self.process = ExplainProcess(home, lake, settings)
        self._thread = ThreadPoolExecutor(1, "explain")
        self._waiting = 0
        self._asked = 0
        self._kept: OrderedDict[Name, tuple[float, Item]] = OrderedDict()
        self._bytes = 0
        self._idle: asyncio.TimerHandle | None = None

    async def ask(self, ask: Ask) -> Told:
        """Have rows explained, when those that came before are.

        Raises:
            Overloaded: too many wait, it took too long, or the child ended.
        """
        if self._waiting > WAITING:
            raise Overloaded("too many explanations wait", where="explain", hint="try again after Retry-After")
        loop = asyncio.get_running_loop()
        self._waiting += 1
        self._asked += 1
        try:
            # the thread goes on when the caller is gone, so the next one still finds the child where it was
            return await loop.run_in_executor(self._thread, self._answered, ask, time.monotonic())
        finally:
            self._waiting -= 1
            if self._idle is not None:
                self._idle.cancel()
            self._idle = loop.call_later(self.settings.idle_seconds, self._rest, self._asked)

    def known(self, name: Name, served: Collection[int]) -> Item | None:
        """A kept explanation, where the version that gave it is still served."""
        found = self._kept.get(name)
        if found is None or found[0] < time.monotonic() or found[1].version not in served:
            return None
        return found[1]

    def keep(self, name: Name, item: Item) -> None:
        """Keep an explanation; the one that was made longest ago goes."""
        if name in self._kept:
            self._bytes -= len(self._kept.pop(name)[1].shown)
        self._kept[name] = (time.monotonic() + KEPT_S, item)
        self._bytes += len(item.shown)
        while len(self._kept) > self.settings.kept or self._bytes > KEPT_BYTES:
            self._bytes -= len(self._kept.popitem(last=False)[1][1].shown)

    def close(self) -> None:
        """End the child."""
        if self._idle is not None:
            self._idle.cancel()
        self.process.stop()
        self._thread.submit(self.process.end)
        self._thread.shutdown(wait=True)

    def _answered(self, ask: Ask, since: float) -> Told:
        if time.monotonic() - since > self.settings.seconds:
            raise Overloaded("the explanation waited too long for others", where="explain", hint="try again")
        return self.process.ask(ask)

    def _rest(self, asked: int) -> None:
        """Nobody asked for a while: the memory goes to others."""
        if asked == self._asked and not self._waiting:
            self._thread.submit(self.process.end)
