"""The ports of the server: that nobody else listens there, and sockets that several processes may accept from."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from registry.errors import ConfigInvalid
from serving.settings import ServingSettings

_LISTENING = "0A"

Address = tuple[socket.AddressFamily, Any]


@contextlib.contextmanager
def held(settings: ServingSettings) -> Iterator[None]:
    """Keep the ports for this server while the block runs, so that no other one shares them silently.

    The sockets that answer have SO_REUSEPORT, which lets any process of the same user join them. So the ports are asked
    for without it first, and then kept by a socket that is bound but never listens.

    Raises:
        ConfigInvalid: somebody listens there, or the address is not of this machine.
    """
    with contextlib.ExitStack() as stack:
        for name, port in (("port", settings.port), ("grpc_port", settings.grpc_port)):
            if port is None:
                continue
            try:
                for address in addresses(settings.host, port):
                    with _bound(address, shared=False) as probe:
                        probe.listen()
                    if name == "grpc_port" and settings.workers == 1:
                        continue  # gRPC then takes it for itself alone
                    keeper = stack.enter_context(_bound(address, shared=True))
                    # from now on it refuses whoever asks for the port without SO_REUSEPORT, listening or not
                    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            except OSError as error:
                raise _taken(f"serving.{name}", port, error) from error
        yield


def listeners(settings: ServingSettings) -> list[socket.socket]:
    """Sockets on the port, bound beside those of other processes of this server; they do not listen yet."""
    return [_bound(address, shared=True) for address in addresses(settings.host, settings.port)]


def addresses(host: str, port: int) -> list[Address]:
    """Where a host name is to be bound; an address family that this machine has not is left out.

    Raises:
        OSError: the name means no address of this machine.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    usable: list[Address] = []
    missing: OSError | None = None
    for address in dict.fromkeys((family, where) for family, _, _, _, where in found):
        try:
            _bound((address[0], (address[1][0], 0, *address[1][2:])), shared=False).close()
        except OSError as error:
            missing = error
        else:
            usable.append(address)
    if not usable and missing is not None:
        raise missing
    return usable


def _bound(address: Address, *, shared: bool) -> socket.socket:
    family, where = address
    made = socket.socket(family)
    try:
        # a port whose last connections are still winding down is free
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(where)
    except OSError:
        made.close()
        raise
    return made


def _taken(where: str, port: int, error: OSError) -> ConfigInvalid:
    holder = holder_of(port) if error.errno == errno.EADDRINUSE else ""
    by = f" by {holder}" if holder else ""
    return ConfigInvalid(
        f"{where} = {port} cannot be bound: {error.strerror}{by}",
        where=where,
        hint="choose another port, or stop what listens there",
    )


def holder_of(port: int) -> str:
    """Who listens on a port, as far as this user may see it: "process 123 (nginx)", or nothing."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                cells = line.split()
                if cells[3] == _LISTENING and int(cells[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{cells[9]}]")
    for descriptors in Path("/proc").glob("[0-9]*/fd") if inodes else ():
        with contextlib.suppress(OSError):  # of another user, or gone since
            if any(str(link.readlink()) in inodes for link in descriptors.iterdir()):
                name = (descriptors.parent / "comm").read_text().strip()
                return f"process {descriptors.parent.name} ({name})"
    return ""
