"""The child in which an estimator that others made is loaded, converted and compared: `child_work` does it."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from registry.child import die_with_parent
from registry.errors import NotAllowed, PereneError
from registry.isolation import cut_network, limit
from registry.landlock import give_up


def main(folder: Path, parent: int, memory_mb: int, *, need_isolation: bool) -> None:
    """Do the job in `folder`."""
    die_with_parent(parent, signal.SIGKILL)
    # what libraries print must not be taken for what we say
    pipe = os.dup(1)
    os.dup2(2, 1)

    def say(**message: str) -> None:
        os.write(pipe, json.dumps(message).encode() + b"\n")

    try:
        alone = cut_network()
        give_up(within=folder)
        if need_isolation and not alone:
            raise NotAllowed(
                "this machine cannot take the network from a process, and the version is a pickle",
                hint="adopt it on Linux 5.13 or newer",
            )
        job = json.loads((folder / "job.json").read_text())
        work = {"adopt": _adopt, "certify": _certify}[job["work"]]
        _import()
        limit(memory_mb)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 30, 2 << 30))
        work(folder, job, lambda step, found: say(step=step, found=found))
        say(done="yes")
    except PereneError as error:
        said = {key: str(getattr(error, key)) for key in ("message", "where", "expected", "got", "hint")}
        say(error=error.code, **said)
    # whatever a library raises on a file that is not what it should be; its words may hold values of rows
    except Exception as error:
        say(error="conversion_refused", message=f"the version cannot be loaded or asked ({_named(error)})")


def _named(error: Exception) -> str:
    missing = getattr(error, "name", None) if isinstance(error, ImportError) else None
    return f"{type(error).__name__}: {missing} is not installed" if missing else type(error).__name__


def _import() -> None:
    import registry.log  # noqa: F401  (what memory it takes is not the model's)


def _adopt(folder: Path, job: dict[str, Any], progress: Any) -> None:
    from registry.adoption.flavours import load
    from registry.archive import archive
    from registry.facts import Facts
    from registry.log import build_bundle

    estimator = load(Path(job["model"]), job["flavours"], allow_pickle=job["allow_pickle"])
    facts = job["facts"]
    if facts["window"]:
        facts["window"] = tuple(facts["window"])
    X, y = _rows(folder)
    build_bundle(
        estimator,
        X,
        y,
        name=job["name"],
        to=folder / "bundle",
        facts=Facts(**facts),
        policies=job["policies"],
        runtime=job["runtime"],
        allow_pickle=job["allow_pickle"],
        progress=progress,
    )
    archive(estimator, folder / "original")


def _certify(folder: Path, job: dict[str, Any], progress: Any) -> None:
    from registry.bundle import read_bundle
    from registry.native.formats import load
    from registry.parity import certify
    from registry.run import opened_bundle

    bundle = read_bundle(folder / "bundle")
    path = Path(job["original"])
    estimator = load(bundle.contract, path.name, path.read_bytes(), allow_pickle=job["allow_pickle"])
    X, _ = _rows(folder)
    progress("original", f"{path.name}, compared on {len(X):,} rows")
    with opened_bundle(bundle, allow_pickle=job["allow_pickle"]) as run:
        certificate = certify(estimator, run, bundle.contract, X[bundle.contract.names])
    (folder / "certificate.json").write_text(json.dumps(certificate))


def _rows(folder: Path) -> tuple[Any, Any]:
    import pandas as pd

    labels = folder / "labels.parquet"
    y: Any = None
    if labels.is_file():
        y = pd.read_parquet(labels).to_numpy()
        y = y.ravel() if y.shape[1] == 1 else y
    return pd.read_parquet(folder / "rows.parquet"), y


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), need_isolation=sys.argv[4] == "1")
