"""A certificate repeated on demand: the golden rows of a version, and its original where that was kept."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.adoption.adopt import SECONDS, write_rows
from registry.adoption.child_work import require_plain, run_child
from registry.bundle import Bundle, read_bundle
from registry.convert import Progress
from registry.errors import BundleCorrupt
from registry.infer import check_holdout
from registry.native.process import check_pickle
from registry.sandbox import check_in_child

if TYPE_CHECKING:
    import pandas as pd

    from registry.mlflow_store import Store


def certify(
    name: str,
    version: int,
    *,
    store: Store,
    rows: pd.DataFrame | None = None,
    allow_pickle: bool = False,
    progress: Progress = lambda step, found: None,
) -> dict[str, Any]:
    """Run the golden rows again and, on `rows`, compare with the original that lies beside the version.

    Raises:
        VersionUnknown: there is no such version.
        BundleCorrupt: it is not one of ours, or does not match its manifest.
        NotAllowed: a pickle would have to be loaded.
        StoreUnavailable: MLflow does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="perene-certify-") as scratch:
        folder = Path(scratch).resolve()
        store.download(name, version, folder / "bundle")
        bundle = read_bundle(folder / "bundle")
        check_pickle(bundle.model_file, allow_pickle=allow_pickle)
        about = {"model": name, "version": version, "digest": bundle.digest}
        try:
            check_in_child(bundle.path, allow_pickle=allow_pickle)
        except BundleCorrupt as error:
            return {**about, "verdict": "refused", "checked": "golden rows", "reason": error.message}
        progress("golden rows", "same answers in a child with limits")
        kept = store.original(name, version, folder / "kept")
        if rows is None or kept is None:
            reason = "no rows were given" if rows is None else "no original was kept beside it"
            known = {"verdict": bundle.certificate["verdict"], "checked": "golden rows"}
            return {**about, **known, "reason": f"{reason}: the verdict is that of its certificate"}
        check_pickle(kept.name, allow_pickle=allow_pickle)
        found = _compare(folder, bundle, kept, rows, allow_pickle=allow_pickle, progress=progress)
        progress("certificate", f"{found['verdict']}, largest difference {found['max_difference']:.2g}")
        return {**about, "verdict": found["verdict"], "checked": "original", "certificate": found}


def _compare(
    folder: Path, bundle: Bundle, kept: Path, rows: pd.DataFrame, *, allow_pickle: bool, progress: Progress
) -> dict[str, Any]:
    check_holdout(bundle.contract, rows)
    write_rows(folder, rows[bundle.contract.names], None)
    job = {"work": "certify", "original": str(kept), "allow_pickle": allow_pickle}
    (folder / "job.json").write_text(json.dumps(job))
    run_child(folder, seconds=SECONDS, progress=progress, need_isolation=allow_pickle)
    made = folder / "certificate.json"
    require_plain(made)
    found = json.loads(made.read_bytes())
    if not isinstance(found, dict) or found.get("verdict") not in ("exact", "close", "refused"):
        raise BundleCorrupt("the comparison gave no certificate", where="certificate.json", hint="run it again")
    return found
