"""A server that ends without losing a request: what reached it is answered, whoever comes later is sent elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Final, cast

import uvicorn

from serving.access.guard import HEADERS
from serving.wire.lane import FastProtocol

if TYPE_CHECKING:
    from serving.service import Service

ARRIVING_S: Final = 0.1
"""Connections whose handshake has begun get as long to end it."""
IDLE_S: Final = 0.5
"""A kept connection gets as long for one more request, whose answer says that it was the last."""
DRAIN_S: Final = 7
"""And requests in flight get as long to be answered."""

_SO_ATTACH_FILTER: Final = 26
_DROP_NEW: Final = (  # classic BPF over the TCP header: of what reaches the socket, drop a SYN and keep the rest
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # if it is SYN alone,
    (0x06, 0, 0, 0),  # take nothing of it,
    (0x06, 0, 0, 0xFFFFFFFF),  # else take all
)


class DrainingServer(uvicorn.Server):
    """uvicorn's server with an end in order; `service` and `protocol` are told when it comes."""

    def __init__(self, config: uvicorn.Config, protocol: type[FastProtocol], service: Service) -> None:
        super().__init__(config)
        self._protocol = protocol
        self._service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals ask for the end, from now until the process is gone: a second one must not break off the first."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ask for the end."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take what has arrived, answer it with a good-bye, and only then close.

        A listening socket that is closed resets whoever waits in its queue, and a connection that is closed while its
        next request is on the way loses that request. So new connections are left unanswered (their client asks again,
        and finds another worker or nobody), the queue is emptied, and kept connections hear `connection: close`.
        """
        began = time.monotonic()
        self._protocol.leaving = True
        self._service.ends_at = began + IDLE_S + DRAIN_S
        for listener in sockets or ():
            refuse_new(listener)
        await asyncio.sleep(ARRIVING_S)
        while any(map(_waiting, sockets or ())) and time.monotonic() < began + IDLE_S:
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        while self.server_state.connections and time.monotonic() < began + IDLE_S:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def refuse_new(listener: socket.socket) -> None:
    """Let no new connection begin; those that have begun still come. Linux only: elsewhere all go on coming."""
    if sys.platform != "linux":
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_NEW))
    with contextlib.suppress(OSError):  # a sandbox that forbids filters: then it is as elsewhere
        program = struct.pack("HL", len(_DROP_NEW), ctypes.addressof(code))
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _waiting(listener: socket.socket) -> bool:
    """Whether a connection waits to be accepted."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


def config_of(app: object, protocol: type[FastProtocol]) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        cast("uvicorn.config.ASGIApplication", app),  # type: ignore[name-defined]
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=protocol,
        ws="none",
        access_log=False,
        log_config=None,  # its records go the way of all others
        log_level="warning",
        server_header=False,
        headers=list(HEADERS),
        timeout_keep_alive=75,
        timeout_graceful_shutdown=DRAIN_S,
    )
