"""The policies that are compared, as switches: when to fit, and who lets the result through."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from registry.errors import ConfigInvalid

__all__ = ["NEVER", "POLICIES", "Policy", "chosen"]


@dataclass(frozen=True, slots=True)
class Policy:
    """`schedule` and `performance` say what begins a run; without `gate` its result is deployed unseen."""

    name: str
    schedule: bool = False
    performance: bool = False
    gate: bool = False

    @property
    def fits(self) -> bool:
        """Whether it ever begins a run."""
        return self.schedule or self.performance


NEVER: Final = Policy("never")
POLICIES: Final = {
    policy.name: policy
    for policy in (
        NEVER,
        Policy("cron", schedule=True),
        Policy("cron+gate", schedule=True, gate=True),
        Policy("trigger", schedule=True, performance=True, gate=True),
    )
}
"""`trigger` is what the worker does: schedule, gates, several windows, and harm that brings the next run forward."""


def chosen(names: Iterable[str] = (), *, scheduled: bool) -> tuple[Policy, ...]:
    """The policies of these names, in their usual order; without names all that need no more than there is.

    `never` is always among them: it costs no fit, and the others are measured by it.

    Raises:
        ConfigInvalid: there is no policy of a name, or it needs a schedule and the model has none.

    >>> [policy.name for policy in chosen(["trigger"], scheduled=True)]
    ['never', 'trigger']
    """
    wanted = list(names)
    for name in wanted:
        if name not in POLICIES:
            near = difflib.get_close_matches(name, POLICIES, n=1, cutoff=0.5)
            raise ConfigInvalid(
                f"there is no policy '{name[:40]}'",
                where="policy",
                expected=", ".join(POLICIES),
                hint=f"did you mean '{near[0]}'?" if near else "name one of those",
            )
    if not wanted:
        wanted = [p.name for p in POLICIES.values() if scheduled or not p.schedule or p.performance]
    needy = [n for n in wanted if POLICIES[n].schedule and not POLICIES[n].performance]
    if needy and not scheduled:
        raise ConfigInvalid(
            f"policy '{needy[0]}' needs a schedule, and the model has none",
            where="schedule",
            expected="five cron fields",
            hint='set schedule in [models.NAME.retrain], or pass --schedule "0 6 1 * *"',
        )
    return tuple(policy for policy in POLICIES.values() if policy is NEVER or policy.name in wanted)
