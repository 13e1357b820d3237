"""When a refused version is tried again: at the next look, then ever later. A verdict can take ten seconds of a CPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from serving.state import Failure

FIRST_S: Final = 10.0
LAST_S: Final = 300.0


@dataclass
class Refusals:
    """Refusals of each deployment of a version; deploying it anew asks for a new verdict."""

    _seen: dict[tuple[str, int, int], tuple[int, float, Failure]] = field(default_factory=dict)

    def standing(self, model: str, version: int, revision: int, now: float) -> Failure | None:
        """The refusal that still holds; None when the version is to be tried."""
        _, until, failure = self._seen.get((model, version, revision), (0, now, None))
        return failure if now < until else None

    def note(self, failure: Failure, revision: int, now: float, *, at_once: bool) -> None:
        """Remember a refusal; `at_once`: the first one is no reason to wait."""
        key = (failure.model, failure.version, revision)
        times = self._seen.get(key, (-1 if at_once else 0, now, failure))[0]
        wait = min(FIRST_S * 2**times, LAST_S) if times >= 0 else 0.0
        self._seen[key] = (min(times + 1, 16), now + wait, failure)

    def forget(self, model: str, version: int, revision: int) -> None:
        """The version is sound."""
        self._seen.pop((model, version, revision), None)
