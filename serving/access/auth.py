"""Who may do what: API keys looked up by digest. Everything is denied that no key allows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from registry.errors import NotAllowed
from registry.keys import KeyLimits, well_formed
from serving.access.limits import Allowance, Limits
from serving.errors import NotReady, Unauthenticated
from serving.state import Key


@dataclass(frozen=True, slots=True)
class Caller:
    """The key a request came with; `id` goes to metrics and events, never the secret."""

    id: str
    scopes: frozenset[str]
    models: frozenset[str]
    limits: Allowance | None = None
    """Nothing for most: no limit is asked after."""

    def may(self, scope: str) -> None:
        """Raise NotAllowed when the key has not this scope."""
        if scope not in self.scopes:
            raise NotAllowed(f"this key may not {scope}", where="Authorization", expected=f"a key with scope {scope}")

    def may_use(self, model: str) -> None:
        """Raise NotAllowed when the key is limited to other models."""
        if self.models and model not in self.models:
            raise NotAllowed("this key is not for this model", where="Authorization")


ANYBODY = Caller("", frozenset({"predict", "feedback", "read"}), frozenset())
"""Who calls a route that asks for no key; and all others when authentication is off (loopback only), as one caller."""


_MOST_FOUND: Final = 1_024


class Keys:
    """The keys that are valid now.

    A lookup by sha256 takes another time for another digest, but a guesser cannot choose digests: how close a guess
    came to a key is not to be learnt from it.
    """

    def __init__(self, keys: Iterable[Key] | None, limits: Limits) -> None:
        """`keys` is None before anybody has said who may call."""
        self._told = keys is not None
        given = {key.id: key for key in keys or ()}
        allowed = limits.allowances({ANYBODY.id: KeyLimits(), **{key.id: key.limits for key in given.values()}})
        self.anybody = replace(ANYBODY, limits=allowed.get(ANYBODY.id))
        self._found: dict[bytes, Caller] = {}
        self._by_digest: Mapping[str, Caller] = {
            key.sha256: Caller(key.id, frozenset(key.scopes), frozenset(key.models), allowed.get(key.id))
            for key in given.values()
        }
        self._by_id = {caller.id: caller for caller in self._by_digest.values()}

    def of(self, identifier: str) -> Caller | None:
        """Who is behind the id of a key, while it is valid: for what is done later, without its secret."""
        return self._by_id.get(identifier)

    def check(self, secret: str, scope: str, model: str | None) -> Caller:
        """The caller behind `secret`, if it may do `scope` on `model`.

        Raises:
            Unauthenticated: no key, or none that is valid.
            NotAllowed: the key has not this scope, or not this model.
            NotReady: which keys are valid is not known yet.
        """
        if not self._told:
            raise NotReady("which keys are valid is not known yet", where="Authorization", hint="ask again in a moment")
        caller = self._by_digest.get(hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest())
        if caller is None:
            mistyped = secret != "" and not well_formed(secret)
            raise Unauthenticated(
                "this is not a whole API key" if mistyped else "a valid API key is needed",
                where="Authorization",
                expected="Authorization: Bearer prn_…  or  X-API-Key: prn_…",
                hint="it was cut or mistyped: copy it again"
                if mistyped
                else "perene up prints a key; revoked keys stop within seconds",
            )
        if scope not in caller.scopes:
            caller.may(scope)
        if model is not None:
            caller.may_use(model)
        return caller

    def bearer(self, header: bytes, scope: str, model: str) -> Caller:
        """As `check`, of a raw `Authorization: Bearer …`: one that was found good is known again without a digest.

        When keys change, others of this class take the place of these: nothing is known for longer than its key.
        """
        caller = self._found.get(header)
        if caller is None:
            caller = self.check(header[7:].decode("latin-1").strip(), scope, model)
            if len(self._found) >= _MOST_FOUND:  # the same key, spelt with more and more blanks
                self._found.clear()
            self._found[header] = caller
        if scope not in caller.scopes:
            caller.may(scope)
        caller.may_use(model)
        return caller


def secret_of(headers: Mapping[str, str]) -> str:
    """The key of a request, or the empty string."""
    bearer = headers.get("authorization", "")
    if bearer[:7].lower() == "bearer ":
        return bearer[7:].strip()
    return headers.get("x-api-key", "").strip()
