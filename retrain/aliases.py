"""Project the ledger onto MLflow aliases, after the fact: `champion` and `challenger` follow the deployment row.

Runs as a child (`python -m retrain.aliases`), for MLflow is 200 MB and seconds to import.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from registry.child import die_with_parent
from registry.ledger import Deployment, Ledger
from retrain.places import Places

__all__ = ["project"]


class Aliases(Protocol):
    """The part of the MLflow store that moves aliases."""

    def aliases(self, model: str) -> Mapping[str, int]: ...

    def set_alias(self, model: str, alias: str, version: int | None) -> None: ...


def project(deployment: Deployment, store: Aliases) -> bool:
    """Make the aliases say what the row says; True when something was changed."""
    wanted = {"champion": deployment.champion, "challenger": deployment.candidate}
    found = store.aliases(deployment.model)
    moves = {alias: version for alias, version in wanted.items() if found.get(alias) != version}
    for alias, version in moves.items():
        store.set_alias(deployment.model, alias, version)
    return bool(moves)


def main(arguments: Sequence[str] | None = None) -> int:
    """Project every deployment of the ledger once."""
    parser = argparse.ArgumentParser(prog="python -m retrain.aliases", description=main.__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--ledger-url", default="")
    parser.add_argument("--tracking-uri", default="")
    parser.add_argument("--parent", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.parent:
        die_with_parent(options.parent, signal.SIGKILL)
    from registry.mlflow_store import Store

    places = Places(options.home, options.ledger_url, options.tracking_uri)
    ledger = Ledger.open(places.ledger_url)
    try:
        store = Store(places.tracking_uri, places.artifacts)
        for deployment in ledger.deployments().values():
            project(deployment, store)
    finally:
        ledger.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
