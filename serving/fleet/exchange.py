"""Two processes that ask each other for their numbers, over a pair of sockets that one inherits from the other.

There is no file and no address: nobody else can join, nothing is left behind, and the end of a process closes its side.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final

import msgspec

from serving.fleet.aggregate import Snapshot

_LENGTH: Final = struct.Struct("!I")


class Ask(msgspec.Struct, frozen=True, tag=True):
    """How do you stand?"""

    number: int


class Told(msgspec.Struct, frozen=True, tag=True):
    """The answer to the question of that number; 0 is a farewell that nobody asked for."""

    number: int
    numbers: Snapshot


_decoder = msgspec.msgpack.Decoder(Ask | Told)
_encoder = msgspec.msgpack.Encoder()


class Peer:
    """One side. `give` says how this side stands, `hear` is told how the other one does."""

    def __init__(
        self, end: socket.socket, give: Callable[[], Awaitable[Snapshot]], hear: Callable[[Snapshot], None]
    ) -> None:
        self._end = end
        self._give = give
        self._hear = hear
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Snapshot | None]] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._late = False
        self._answered_at: float | None = None

    async def run(self) -> None:
        """Answer and listen until the other side is gone."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._end)
        try:
            while True:
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                self._take(_decoder.decode(await reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for future in self._asked.values():
                if not future.done():
                    future.set_result(None)
            self._writer.close()
            self._writer = None

    async def ask(self, seconds: float) -> Snapshot | None:
        """How the other side stands; None when it does not say in time.

        One that is late is not asked again, nor waited for, until it has answered.
        """
        if self._late or self._writer is None:
            return None
        number = next(self._numbers)
        future: asyncio.Future[Snapshot | None] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        self._send(Ask(number))
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            self._late = True
            return None

    def silent_s(self) -> float:
        """How long the other side owes an answer; 0 when it owes none, or never gave one, as while it starts."""
        if not self._late or self._answered_at is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._answered_at

    async def farewell(self) -> None:
        """Tell how this side stood at its end."""
        if self._writer is not None:
            with contextlib.suppress(ConnectionError):
                self._send(Told(0, await self._give()))
                await self._writer.drain()

    def _take(self, message: Ask | Told) -> None:
        if isinstance(message, Ask):
            task = asyncio.ensure_future(self._answer(message.number))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)
            return
        self._late = False
        self._answered_at = asyncio.get_running_loop().time()
        self._hear(message.numbers)
        future = self._asked.pop(message.number, None)
        if future is not None and not future.done():
            future.set_result(message.numbers)

    async def _answer(self, number: int) -> None:
        self._send(Told(number, await self._give()))

    def _send(self, message: Ask | Told) -> None:
        if self._writer is not None:
            data = _encoder.encode(message)
            self._writer.write(_LENGTH.pack(len(data)) + data)
