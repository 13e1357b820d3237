"""Who calls a hook: the holder of a key, or whoever signs with the secret that was agreed on."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import time
from typing import Final

from starlette.requests import Request

from registry.webhook import SIGNATURE, TOLERANCE_S, SignatureInvalid, verified
from serving.access.auth import Caller
from serving.errors import Replayed, Unauthenticated
from serving.service import Service

__all__ = ["SIGNED", "Seen", "sender"]

SIGNED: Final = Caller("signed", frozenset({"alert"}), frozenset())
"""Whoever has the secret."""
_MOST: Final = 10_000


class Seen:
    """Signatures of the last minutes: each is good for one call of this process.

    Of several processes another one may take it once more; what calls write is written once for all that.
    """

    def __init__(self, clock: Callable[[], float] = time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._at: OrderedDict[bytes, float] = OrderedDict()

    def take(self, header: str) -> None:
        """Remember a signature.

        Raises:
            Replayed: it was taken before.
        """
        digest, now = hashlib.sha256(header.encode("utf-8", "surrogateescape")).digest(), self._clock()
        with self._lock:
            while self._at and (len(self._at) > _MOST or next(iter(self._at.values())) < now - 2 * TOLERANCE_S):
                self._at.popitem(last=False)
            if digest in self._at:
                raise Replayed("this signed call came before", where=SIGNATURE, hint="sign every call anew")
            self._at[digest] = now

    def forget(self, header: str) -> None:
        """What a signature asked for did not come about: it may come again."""
        with self._lock:
            self._at.pop(hashlib.sha256(header.encode("utf-8", "surrogateescape")).digest(), None)


@contextmanager
def sender(service: Service, request: Request, body: bytes, seen: Seen, *, keys: bool) -> Iterator[Caller]:
    """Who sent `body`: a key with the scope alert, where `keys` may, or the secret's holder.

    A signature is used up when the block ends without an error: what failed may be sent again as it was.

    Raises:
        Unauthenticated: neither, or the signature is wrong or too old.
        Replayed: the signature came before.
        NotAllowed: the key has not the scope.
    """
    header = request.headers.get(SIGNATURE.lower(), "")
    if not header and keys:
        caller = service.check(request, "alert")
        caller.may("alert")  # a server without keys answers anybody: not enough to have a version taken back
        yield caller
        return
    try:
        verified(service.settings.hooks.secret, body, header, time())
    except SignatureInvalid as error:
        raise Unauthenticated(
            error.message, where=SIGNATURE, expected=error.expected or "t=SECONDS,v1=HMAC-SHA256 of `SECONDS.BODY`"
        ) from None
    seen.take(header)
    try:
        yield SIGNED
    except BaseException:
        seen.forget(header)
        raise
