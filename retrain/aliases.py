"""The alias child: one look at MLflow's aliases, `python -m retrain.aliases`; and when the worker starts one.

MLflow is 200 MB and seconds to import, so the worker does not. It starts a child after a row of the ledger, and when
a peek at MLflow's aliases (milliseconds) shows others than the last child left.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from registry import process_log
from registry.child import die_with_parent
from registry.errors import LeaseLost, PereneError
from registry.ledger import Ledger
from registry.mlflow_peek import Peeked, peek
from registry.policy import LedgerPolicy
from registry.private import LEDGER, TRACKING, addresses, taken
from retrain.places import Places
from retrain.process import Child

__all__ = ["AliasWatch"]

LEASE_LOST = 75
"""Exit status of a child whose leader was replaced (EX_TEMPFAIL)."""
LIMIT_S = 120.0
SETTLE_S = 8.0
"""Less than the supervisor waits before it kills."""
SETTLE_POLL_S = 0.05


@dataclass
class AliasWatch:
    """Starts one child at a time, when ledger or aliases moved.

    Where a peek does not tell (a server that asks for a password, say) it starts one every `alias_poll_s`, for what a
    child costs: some three seconds of one core and 200 MB while it lives.
    """

    places: Places
    policy: LedgerPolicy
    trusted: Sequence[str] = ()
    allow_pickle: bool = False
    clock: Callable[[], float] = time.monotonic
    revision: int = field(default=-1, init=False)
    _child: Child | None = field(default=None, init=False)
    _before: Peeked | None = field(default=None, init=False)
    _seen: Peeked | None = field(default=None, init=False)
    _due: float = field(default=0.0, init=False)

    def tend(self, revision: int, *, token: int, quiet: bool) -> None:
        """Look after the child; start another one if there is cause, unless the worker is busy with a run."""
        if self._child is not None:
            status = self._child.poll()
            if status is None:
                return
            self._child = None
            # an alias that moved while the child looked, by its hand or another, is looked at again; so is a store
            # that was away
            after = peek(self.places.tracking_uri)
            self._seen = after if status == 0 and after == self._before else None
            self._due = self.clock() + self.policy.alias_poll_s
        if not quiet or not (revision != self.revision or self._moved()):
            return
        self.revision = revision
        self._before = peek(self.places.tracking_uri)
        self._start(token)

    def _moved(self) -> bool:
        if self.clock() < self._due:
            return False
        self._due = self.clock() + self.policy.alias_poll_s
        now = peek(self.places.tracking_uri)
        return now is None or now != self._seen

    def _start(self, token: int) -> None:
        arguments = ["retrain.aliases", f"--home={self.places.home}", f"--parent={os.getpid()}", f"--token={token}"]
        arguments.append(f"--policy={self.policy.model_dump_json()}")
        arguments += [f"--trusted={key}" for key in self.trusted]
        arguments += ["--allow-pickle"] if self.allow_pickle else []
        secrets = addresses(self.places.ledger, self.places.tracking)
        log = self.places.home / "logs" / "aliases.txt"
        self._child = Child.start(arguments, log=log, seconds=LIMIT_S, secrets=secrets)

    @property
    def idle(self) -> bool:
        """Whether no child is at work, and what the last one left is what MLflow still says."""
        return self._child is None and self._seen is not None

    def settle(self, revision: int, *, token: int, seconds: float) -> None:
        """Tell MLflow of the last moves before the worker ends, for at most `seconds`."""
        end = self.clock() + seconds
        # a watch that never looked leaves the first look to the next worker
        while self.revision >= 0 and (self._child is not None or self.revision != revision) and self.clock() < end:
            self.tend(revision, token=token, quiet=True)
            time.sleep(SETTLE_POLL_S)

    def stop(self) -> None:
        """Kill the child; what it left undone the next one does."""
        if self._child is not None:
            self._child.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at the aliases of every model once."""
    parser = argparse.ArgumentParser(prog="python -m retrain.aliases", description=main.__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--ledger-url", default=taken(LEDGER))
    parser.add_argument("--tracking-uri", default=taken(TRACKING))
    parser.add_argument("--policy", default="{}", help="JSON of the table [policy]")
    parser.add_argument("--trusted", action="append", default=[], help="a key that must have signed; repeatable")
    parser.add_argument("--allow-pickle", action="store_true")
    parser.add_argument("--token", type=int, help="the leader's; without one nothing is fenced")
    parser.add_argument("--parent", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.parent:
        die_with_parent(options.parent, signal.SIGKILL)
    from registry.aliases import Intake
    from registry.mlflow_store import Store
    from registry.promotion import Examiner
    from registry.signing import load_verifier

    places = Places(options.home, options.ledger_url, options.tracking_uri)
    policy = LedgerPolicy.model_validate_json(options.policy)
    ledger = Ledger.open(places.ledger_url)
    try:
        store = Store(places.tracking_uri, places.artifacts)
        trusted = tuple(load_verifier(key) for key in options.trusted)
        examiner = Examiner(store, ledger, policy, places.home / "cache" / "bundles", trusted, options.allow_pickle)
        Intake(ledger, store, examiner, options.token).look()
    except LeaseLost:
        return LEASE_LOST
    except PereneError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        ledger.close()
    return 0


if __name__ == "__main__":
    process_log.configure()
    raise SystemExit(main())
