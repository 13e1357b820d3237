"""The hand-over from the puller: one JSON file, replaced atomically, from which the server can start cold."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from registry.keys import KeyLimits
from registry.routing import Routing
from serving.routing import Route, Rule

FILE = "state.json"


class Deployed(msgspec.Struct, frozen=True):
    """A model's row of the ledger, as far as serving needs it."""

    revision: int
    champion: int
    candidate: int | None = None
    mode: str | None = None
    weight: float = 0.0
    salt: str = ""
    routing: Routing | None = None

    def route(self) -> Route:
        """For `serving.routing`."""
        routing = self.routing or Routing()
        return Route(
            self.champion,
            self.candidate,
            self.mode,
            self.weight,
            self.salt,
            routing.arms,
            tuple(map(Rule.of, routing.segments or ())),
            routing.shadow_share,
            self.revision,
        )


class Stored(msgspec.Struct, frozen=True):
    """A verified bundle in the cache; `dir` is relative to the cache."""

    dir: str
    digest: str


class Key(msgspec.Struct, frozen=True):
    """An API key that is valid."""

    id: str
    sha256: str
    scopes: list[str]
    models: list[str]
    limits: KeyLimits = KeyLimits()


class Failure(msgspec.Struct, frozen=True):
    """A version that could not be made ready, and why."""

    model: str
    version: int
    reason: str


class State(msgspec.Struct, frozen=True):
    """Everything the server must know; `written` is unix seconds."""

    revision: int = 0
    written: float = 0.0
    deployments: dict[str, Deployed] = {}
    bundles: dict[str, dict[str, Stored]] = {}
    keys: list[Key] = []
    failures: list[Failure] = []


def read_state(cache: Path) -> State | None:
    """The state last handed over; None before the first one, or when the file is damaged."""
    return parse_state(state_bytes(cache))


def state_bytes(cache: Path) -> bytes:
    """The hand-over as it lies there, empty before the first one; equal bytes are an equal state.

    It is a few kilobytes: reading it is as cheap as asking for a time stamp, which may stand still.
    """
    try:
        return (cache / FILE).read_bytes()
    except OSError:
        return b""


def parse_state(data: bytes) -> State | None:
    """The state in these bytes; None when they are damaged."""
    try:
        return msgspec.json.decode(data, type=State)
    except msgspec.DecodeError:
        return None


def write_state(cache: Path, state: State) -> None:
    """Replace the state, on disk before it is visible."""
    cache.mkdir(parents=True, exist_ok=True)
    temporary = cache / f".{FILE}.{os.getpid()}"
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(state))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, cache / FILE)
