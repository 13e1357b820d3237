"""`python -m perene.fetch ARTIFACTS NAME VERSION TO`: download a version's bundle, in a process that ends afterwards.

The address of MLflow is in the environment. Exit code 1 with the error as JSON on stdout.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from registry.errors import BundleCorrupt, PereneError
from registry.private import LEDGER, TRACKING, taken


def main(artifacts: str, name: str, version: str, to: str) -> int:
    """Download, and check that it is what the version's tag names."""
    os.environ["DO_NOT_TRACK"] = "true"
    taken(LEDGER)
    try:
        from registry.bundle import read_bundle
        from registry.mlflow_store import Store

        store = Store(taken(TRACKING), Path(artifacts))
        digest = read_bundle(store.download(name, int(version), Path(to))).digest
        if digest != store.digest(name, int(version)):
            raise BundleCorrupt(
                f"the bundle of version {version} of '{name}' is not the one its tag names", where="manifest.json"
            )
    except PereneError as error:
        facts = {"code": error.code, "message": error.message, "where": error.where, "hint": error.hint}
        sys.stdout.write(json.dumps(facts))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
