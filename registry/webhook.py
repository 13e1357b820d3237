"""Signed calls to other people's servers: where they may go, how they are signed, and one attempt to bring one.

A name is resolved once, and the connection is made to the very address that was looked at: nothing is gained by a name
that leads elsewhere the second time. Redirects are not followed. Nothing of an answer is kept but its status.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from registry.errors import PereneError

SECONDS: Final = 10.0
"""For one attempt, from the first packet to the status."""
SIGNATURE: Final = "Perene-Signature"
TOLERANCE_S: Final = 300.0
"""So far may the clocks of a sender and ours differ, with the time on the way."""
_SIGNED: Final = re.compile(r"t=(\d{1,12}),v1=([0-9a-f]{64})\Z")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r\n]")
_TUNNELS: Final = tuple(
    map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96"))
)
"""IPv6 addresses that carry one of IPv4, which may be a private one."""
_LABEL: Final = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"(?!.{{254}}){_LABEL}(?:\.{_LABEL})*\Z|(?=[^:]*:)[0-9a-f:.]{{2,45}}\Z")
Resolve = Callable[[str, int], list[str]]


class AddressRefused(PereneError):
    """An address that is not called."""

    code = "address_refused"


class SignatureInvalid(PereneError):
    """A signed call that nobody with the secret made, or made too long ago."""

    code = "signature_invalid"


class Undelivered(Exception):
    """It did not arrive; `final` says that no further attempt can help."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final


@dataclass(frozen=True, slots=True)
class Target:
    """A callback's address, taken apart."""

    host: str
    port: int
    path: str
    tls: bool
    trusted: bool
    """The operator named the host."""


def target_of(url: str, hosts: Collection[str], *, setting: str) -> Target:
    """Where a call goes; `hosts`, of the `setting` of this name, are those that the operator allows by name.

    Raises:
        AddressRefused: it is no address that may be called.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _refused("a URL") from None
    host = (parts.hostname or "").rstrip(".")
    trusted = host in {name.lower() for name in hosts}
    if len(url) > 2_000 or not url.isascii() or any(c <= " " or c == "\x7f" for c in url) or not _HOST.match(host):
        raise _refused("a URL of visible ASCII characters, with a host")
    if parts.scheme != "https" and not (trusted and parts.scheme == "http"):
        raise _refused(f"https, or a host of {setting}")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise _refused("no user, no password and no fragment")
    tls = parts.scheme == "https"
    if not trusted and _is_address(host) and not is_public(host):
        raise _refused(f"a public address, or a host of {setting}")
    return Target(host, port or (443 if tls else 80), _path(parts), tls, trusted)


def is_public(address: str) -> bool:
    """Whether an address is one of the open Internet.

    >>> [is_public(a) for a in ("93.184.215.14", "10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "ff02::1")]
    [True, False, False, False, False]
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found.is_site_local or any(found in network for network in _TUNNELS):
            return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


def signature(secret: str, body: bytes, at: int) -> str:
    """The value of the header `Perene-Signature`: who has the secret can tell that, and when, we sent this body."""
    signed = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={signed}"


def verified(secret: str, body: bytes, header: str, now: float) -> None:
    """Check a `Perene-Signature` that came with `body`.

    Raises:
        SignatureInvalid: it is not of this secret and body, or older (or newer) than five minutes.

    >>> verified("s", b"{}", signature("s", b"{}", 1_000), 1_100.0)
    """
    found = _SIGNED.match(header)
    expected = signature(secret, body, int(found[1])) if found else ""
    if not secret or not hmac.compare_digest(expected.encode(), header.encode("utf-8", "surrogateescape")):
        raise SignatureInvalid("the signature is not of this secret and body", where=SIGNATURE)
    if found is None or abs(now - int(found[1])) > TOLERANCE_S:
        raise SignatureInvalid(
            "the signature is too old", where=SIGNATURE, expected="a time within five minutes of the server's clock"
        )


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def send(target: Target, body: bytes, headers: dict[str, str], *, resolver: Resolve = resolve) -> None:
    """Bring it: one attempt.

    Raises:
        Undelivered: the address may not be called, or nobody took it there.
    """
    deadline = time.monotonic() + SECONDS
    try:
        addresses = resolver(target.host, target.port)
    except (OSError, UnicodeError):  # the latter of a name that cannot be one
        raise Undelivered("the host has no address") from None
    if not target.trusted and not all(map(is_public, addresses)):
        raise Undelivered("the host has an address that is not public", final=True)
    name = f"[{target.host}]" if ":" in target.host else target.host
    lines = [f"POST {target.path} HTTP/1.1", f"Host: {name}:{target.port}", "Connection: close"]
    lines += [f"Content-Length: {len(body)}", "Content-Type: application/json", "User-Agent: perene"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    try:
        status = _status(target, addresses[0], request, deadline)
    except ssl.SSLError:
        raise Undelivered("TLS was refused, or its certificate is not to be trusted") from None
    except TimeoutError:
        raise Undelivered("it did not answer in time") from None
    except OSError:
        raise Undelivered("it cannot be reached") from None
    if 300 <= status < 400:
        raise Undelivered(f"it redirects ({status})", final=True)
    if not 200 <= status < 300:
        raise Undelivered(f"it answered {status}")


def _status(target: Target, address: str, request: bytes, deadline: float) -> int:
    with socket.create_connection((address, target.port), timeout=_left(deadline)) as plain:
        connection = plain
        if target.tls:
            plain.settimeout(_left(deadline))
            connection = ssl.create_default_context().wrap_socket(plain, server_hostname=target.host)
        try:
            connection.settimeout(_left(deadline))
            connection.sendall(request)
            said = b""
            while len(said) < 16:
                connection.settimeout(_left(deadline))
                part = connection.recv(64)
                if not part:
                    break
                said += part
        finally:
            connection.close()
    found = _STATUS.match(said)
    if found is None:
        raise Undelivered("its answer is not HTTP")
    return int(found[1])


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _path(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _refused(expected: str) -> AddressRefused:
    return AddressRefused("this address is not called", where="address", expected=expected)
