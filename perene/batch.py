"""`perene predict --batch`: which version answers, and where its verified bundle is."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perene.config import Settings
from registry.bundle import Bundle, read_bundle
from registry.errors import BundleCorrupt, ConfigInvalid, ModelUnknown, NotAllowed, PereneError, StoreUnavailable
from registry.ledger import Ledger
from registry.names import check_name
from registry.native.process import check_pickle
from registry.private import addresses
from registry.sandbox import check_in_child
from registry.signing import load_verifier, verify_bundle

if TYPE_CHECKING:
    from serving.batch.job import Asked, Report, Summary


def predict_file(asked: Asked, model: str | None, settings: Settings, *, report: Report) -> dict[str, Any]:
    """Answer every row of a file, or go on with that, in this process; no server is asked.

    Args:
        asked: file, output and options.
        model: `NAME` or `NAME@VERSION`; by default the model that is deployed alone, and its champion.
        settings: where the stores are, and how the engine runs.
        report: told of progress.

    Raises:
        PereneError: the model cannot be loaded, or the job is refused; see `serving.batch.job.score`.
    """
    from serving.batch.job import check_output, score
    from serving.batch.journal import Model
    from serving.batch.rows import Scorer

    check_output(asked)
    name, version = chosen(settings, model)
    with tempfile.TemporaryDirectory(prefix="perene-") as scratch:
        bundle = verified(settings, name, version, Path(scratch))
        with Scorer(bundle, settings.serving) as scorer:
            provider = scorer.provider
            summary = score(asked, scorer, Model(name, version, bundle.digest), report=report)
    return {"model": name, "version": version, "digest": bundle.digest, "provider": provider} | _facts(asked, summary)


def chosen(settings: Settings, asked: str | None) -> tuple[str, int]:
    """Name and version of what answers.

    Raises:
        ModelUnknown: nothing of this name is deployed, or it is not clear which model is meant.
        ConfigInvalid: what stands behind the `@` is no version.
    """
    name, _, number = (asked or settings.serving.default_model or "").partition("@")
    if number and not (number.isascii() and number.isdigit() and int(number)):
        raise ConfigInvalid(f"'{number[:40]}' is no version", where="--model", expected="NAME or NAME@VERSION")
    if number:
        return check_name(name), int(number)
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        deployed = {name: row.champion for name, row in ledger.deployments().items()}
    if not name and len(deployed) == 1:
        return next(iter(deployed.items()))
    if not name:
        hint = "perene log deploys a first version" if not deployed else f"--model {sorted(deployed)[0]}"
        raise ModelUnknown(f"{len(deployed)} models are deployed", where="--model", hint=hint)
    if check_name(name) not in deployed:
        near = difflib.get_close_matches(name, list(deployed), n=1)
        hint = f"did you mean '{near[0]}'?" if near else "perene status lists what is deployed"
        raise ModelUnknown(f"no model '{name}' is deployed", where="--model", hint=hint)
    return name, deployed[name]


def verified(settings: Settings, name: str, version: int, scratch: Path) -> Bundle:
    """The version's bundle: from the server's cache when its golden rows ran there, else from MLflow and run here.

    Raises:
        PereneError: it cannot be had, or must not serve.
    """
    trusted = tuple(load_verifier(key) for key in settings.signing.trusted)
    bundle = from_cache(settings, name, version)
    fetched = bundle is None
    if bundle is None:
        bundle = from_store(settings, name, version, scratch / "bundle")
    if trusted:
        verify_bundle(bundle.path, trusted)
    if bundle.contract.model != name:
        raise BundleCorrupt("the bundle is of another model", where="contract.json")
    if bundle.certificate.get("verdict") == "refused":
        raise NotAllowed(f"the certificate of version {version} of '{name}' says refused", where="certificate")
    check_pickle(bundle.model_file, allow_pickle=settings.serving.allow_pickle)
    if fetched:
        check_in_child(bundle.path, allow_pickle=settings.serving.allow_pickle)
    return bundle


def from_cache(settings: Settings, name: str, version: int) -> Bundle | None:
    """The version's bundle in the server's cache, when its golden rows ran there."""
    folder = settings.places.bundle(name, version)
    if not folder.with_name(f"{version}.golden.json").is_file():
        return None
    try:
        return read_bundle(folder)
    except BundleCorrupt:  # what rotted in the cache says nothing of the version
        return None


def from_store(settings: Settings, name: str, version: int, to: Path) -> Bundle:
    """A download by a child: MLflow would take 190 MB of this process for good.

    Raises:
        PereneError: MLflow has no such version, or does not answer.
    """
    command = [sys.executable, "-m", "perene.fetch", str(settings.places.artifacts), name, str(version), str(to)]
    places = addresses(settings.places.ledger_url, settings.places.tracking_uri)
    done = subprocess.run(
        command, env={**os.environ, **places}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise _told(done.stdout)
    return read_bundle(to)


def _told(said: bytes) -> PereneError:
    """What the child said of its failure."""
    try:
        facts = json.loads(said)
        kinds = {kind.code: kind for kind in PereneError.__subclasses__()}
        return kinds[facts.pop("code")](facts.pop("message"), **facts)
    except (ValueError, LookupError, TypeError):
        return StoreUnavailable("the download from MLflow ended without an answer", hint="try again")


def _facts(asked: Asked, summary: Summary) -> dict[str, Any]:
    return {
        "out": str(asked.out),
        "rows": summary.rows,
        "written": summary.written,
        "rejected": summary.rejected,
        "errors": str(summary.errors) if summary.errors else None,
        "resumed": summary.resumed,
        "seconds": round(summary.seconds, 3),
    }
