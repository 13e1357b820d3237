"""By which names this server may be called, and from which pages: what a browser can be led to ask is refused.

A page of a stranger can make a browser send requests to a server that only the browser's machine reaches, under a name
of the stranger's that leads there (the Host tells), or plainly across sites (Origin and Sec-Fetch-Site tell). Keys
alone do not answer that: a server on loopback may go without.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from registry.errors import NotAllowed, PereneError
from serving.errors import HostNotAllowed, Malformed
from serving.settings import WebSettings

HEADERS: Final = (("x-content-type-options", "nosniff"), ("cache-control", "no-store"))
"""On every answer, by uvicorn: predictions are kept by nobody on the way, and nothing is taken for what it is not."""
PROBES: Final = frozenset({"/livez", "/readyz", "/healthz", "/ping", "/health", "/v2/health/live", "/v2/health/ready"})
"""Asked by whatever watches a container, by the address it has: no name is asked of them, and nothing is told."""
_AUTHORITY: Final = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(:[0-9]{1,5})?\Z")
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_LED: Final = frozenset({b"origin", b"sec-fetch-site", b"sec-fetch-mode"})
_MOST_KNOWN: Final = 64
_EXPOSED: Final = (
    "x-request-id, x-model-name, x-model-version, x-prediction-id, server-timing, retry-after, ratelimit, "
    "ratelimit-policy, idempotency-replayed, location, preference-applied"
)
_ASKED: Final = (
    "authorization, x-api-key, content-type, x-request-id, x-model-version, idempotency-key, x-entity, x-event-time, "
    "traceparent, prefer"
)


def is_loopback(host: str) -> bool:
    """Whether an address to bind reaches this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class Asking:
    """A request, as far as it tells who leads the browser: names of headers in lower case."""

    method: str
    path: str
    query: bytes
    headers: Iterable[tuple[bytes, bytes]]


class Guard:
    """The names and origins of one server."""

    def __init__(self, settings: WebSettings, bind: str) -> None:
        names = {name.lower() for name in settings.allowed_hosts}
        self._any = "*" in names
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*."))
        own = {f"[{bind}]" if ":" in bind else bind.lower()}
        self._names = frozenset(names | (_LOOPBACK | own if is_loopback(bind) else set()))
        self._origins = frozenset(origin.lower().rstrip("/") for origin in settings.allowed_origins)
        self._known: set[bytes | None] = set()

    @property
    def cors(self) -> bool:
        """Whether pages of any other origin may call."""
        return bool(self._origins)

    def host(self, given: bytes | None) -> bool:
        """Whether this Host header names us. What was found good once is found again at once."""
        if given in self._known:
            return True
        if given is None or not self._names_us(given.decode("latin-1").lower()):
            return False
        if len(self._known) < _MOST_KNOWN:
            self._known.add(given)
        return True

    def check(self, asking: Asking) -> str | None:
        """The other origin that the request comes from and that may call, if it comes from one.

        Raises:
            Malformed: no Host, or several.
            HostNotAllowed: it names another server.
            NotAllowed: a page of another site asks.
        """
        hosts = [value for name, value in asking.headers if name == b"host"]
        if not (asking.path in PROBES and asking.method in ("GET", "HEAD") and not asking.query):
            if len(hosts) != 1:
                raise Malformed("a request names one host", where="Host", expected="one Host header")
            if not self.host(hosts[0]):
                raise HostNotAllowed(
                    "this server is not called so",
                    where="Host",
                    hint="serving.web.allowed_hosts has the names by which it may be called",
                )
        told = {name: value.decode("latin-1") for name, value in asking.headers if name in _LED}
        origin = told.get(b"origin")
        if origin is not None:
            if origin.partition("://")[2].lower() == (hosts[0] if hosts else b"").decode("latin-1").lower():
                return None  # its own page; a proxy may have ended TLS, so the scheme is not asked after
            if not self._may_call(origin):
                raise _foreign("Origin")
            return origin
        site = told.get(b"sec-fetch-site", "none")
        followed = asking.method == "GET" and told.get(b"sec-fetch-mode") == "navigate"
        if site not in ("none", "same-origin") and not followed:
            raise _foreign("Sec-Fetch-Site")
        return None

    def preflight(self, origin: str) -> dict[str, str]:
        """The headers that tell a browser that a page of `origin` may ask what it is about to."""
        return {
            **allow(origin),
            "access-control-allow-methods": "GET, POST, DELETE",
            "access-control-allow-headers": _ASKED,
            "access-control-max-age": "600",
        }

    def _names_us(self, authority: str) -> bool:
        found = _AUTHORITY.match(authority)
        if found is None:
            return False
        name = found[1].rstrip(".")
        return self._any or name in self._names or authority in self._names or name.endswith(self._suffixes or ("\0",))

    def _may_call(self, origin: str) -> bool:
        return "*" in self._origins or origin.lower() in self._origins


def allow(origin: str) -> dict[str, str]:
    """The headers by which a browser lets a page of `origin` read an answer."""
    return {
        "access-control-allow-origin": origin,
        "access-control-expose-headers": _EXPOSED,
        "vary": "Origin",
    }


def _foreign(where: str) -> PereneError:
    return NotAllowed(
        "pages of other sites may not call this server",
        where=where,
        hint="serving.web.allowed_origins has the origins that may",
    )


def page_headers(html: str) -> Mapping[str, str]:
    """The headers of a page of ours: it runs its own scripts and styles, asks this server only, and is never framed."""
    hashes = {
        tag: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
            for part in re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        )
        for tag in ("script", "style")
    }
    policy = (
        f"default-src 'none'; script-src 'self' {hashes['script']}; style-src 'self' {hashes['style']}; "
        "img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return {"content-security-policy": policy, "referrer-policy": "no-referrer"}
