"""What a version must be before it takes over: certified, loadable, allowed, and no surprise to callers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from registry.approvals import standing
from registry.bundle import Bundle, read_bundle
from registry.contract import incompatibilities
from registry.errors import BundleCorrupt, NotAllowed, PereneError, VersionUnknown
from registry.ledger import Ledger
from registry.policy import LedgerPolicy, refusal
from registry.sandbox import check_in_child
from registry.signing import Verifier, verify_bundle

DIGEST_TAG = "perene.digest"
VERDICT_TAG = "perene.verdict"


class Versions(Protocol):
    """The part of the MLflow store that knows versions and their bundles."""

    def versions(self, model: str) -> list[dict[str, Any]]:
        """Number and tags of every version."""

    def download(self, model: str, version: int, to: Path) -> Path:
        """Copy a version's bundle into the new folder `to`."""


@dataclass(frozen=True)
class Examiner:
    """Looks at a version before it becomes champion.

    `cache` is where serving keeps bundles that it has checked; where `trusted` is given, one of those keys must have
    signed the version.
    """

    store: Versions
    ledger: Ledger
    policy: LedgerPolicy
    cache: Path
    trusted: Sequence[Verifier] = ()
    allow_pickle: bool = False

    def examine(
        self, model: str, version: int, *, champion: int | None, actor: str | None, breaking: bool = False
    ) -> list[str]:
        """Check that `version` may take over from `champion`; returns how callers break, if `breaking` allows that.

        Raises:
            VersionUnknown: the version is not registered.
            NotAllowed: it has no certificate or a refused one, the policy asks for more, or callers of the champion
                would break and `breaking` is not given.
            BundleCorrupt: its files, digests, golden rows or signature do not hold.
            StoreUnavailable: MLflow does not answer.
        """
        tags = self.tags(model, version)
        digest = tags[DIGEST_TAG]
        why = refusal(self.policy, standing(self.ledger, model, version, digest), actor=actor)
        if why is not None:
            raise NotAllowed(
                f"version {version} of '{model}' may not be promoted: {why}",
                where="policy",
                hint=f"perene approve {model} {version}, by somebody else"
                if "approvals" in why
                else "let somebody else promote it",
            )
        broken = self._callers(model, version, digest, champion)
        if broken and not breaking:
            raise NotAllowed(
                f"callers of version {champion} of '{model}' would break: {'; '.join(broken)}",
                where="contract",
                hint="give --breaking if they know",
            )
        return broken

    def examine_candidate(self, model: str, version: int, *, champion: int) -> None:
        """Check that `version` may be tried against `champion`: as `examine`, but people are not asked yet.

        Raises:
            VersionUnknown, NotAllowed, BundleCorrupt, StoreUnavailable: as `examine`.
        """
        broken = self._callers(model, version, self.tags(model, version)[DIGEST_TAG], champion)
        if broken:
            raise NotAllowed(
                f"callers of version {champion} of '{model}' would break: {'; '.join(broken)}",
                where="contract",
                hint=f"no trial can compare the two; perene promote {model} {version} --breaking if they know",
            )

    def _callers(self, model: str, version: int, digest: str, champion: int | None) -> list[str]:
        """How callers of the champion would break, once the version's bundle is found sound."""
        with tempfile.TemporaryDirectory(prefix="perene-") as scratch:
            bundle = self._sound(model, version, digest, Path(scratch))
            return self._broken(model, bundle, champion, Path(scratch)) if champion not in (None, version) else []

    def tags(self, model: str, version: int) -> dict[str, str]:
        """The version's tags in MLflow, which must say that it is certified.

        Raises:
            VersionUnknown, NotAllowed: as `examine`.
        """
        found = next((v["tags"] for v in self.store.versions(model) if v["version"] == version), None)
        if found is None:
            raise VersionUnknown(f"model '{model}' has no version {version}", hint=f"perene models {model}")
        tags: dict[str, str] = found
        if VERDICT_TAG not in tags or DIGEST_TAG not in tags:
            raise NotAllowed(
                f"version {version} of '{model}' has no certificate", where="certificate", hint="log it with Perene"
            )
        if tags[VERDICT_TAG] == "refused":
            raise _refused(model, version)
        return tags

    def _sound(self, model: str, version: int, digest: str, scratch: Path) -> Bundle:
        """The version's bundle, from serving's cache if its golden rows ran there, else downloaded and run here."""
        bundle = self._cached(model, version, digest)
        if bundle is None:
            bundle = read_bundle(self.store.download(model, version, scratch / "version"))
            if bundle.digest != digest:
                raise BundleCorrupt(
                    f"the bundle of version {version} of '{model}' is not the one its tag names", where="manifest.json"
                )
            check_in_child(bundle.path, allow_pickle=self.allow_pickle)
        if self.trusted:
            verify_bundle(bundle.path, self.trusted)
        if bundle.certificate.get("verdict") == "refused":
            raise _refused(model, version)
        return bundle

    def _cached(self, model: str, version: int, digest: str) -> Bundle | None:
        folder = self.cache / model / str(version)
        if not folder.with_name(f"{version}.golden.json").is_file():
            return None
        try:
            bundle = read_bundle(folder)
        except BundleCorrupt:  # what rotted in the cache says nothing of the version
            return None
        return bundle if bundle.digest == digest else None

    def _broken(self, model: str, bundle: Bundle, champion: int | None, scratch: Path) -> list[str]:
        if champion is None:
            return []
        try:
            try:
                now = read_bundle(self.cache / model / str(champion))
            except BundleCorrupt:
                now = read_bundle(self.store.download(model, champion, scratch / "champion"))
        except PereneError as error:
            return [f"the contract of version {champion} cannot be read: {error.message}"]
        return incompatibilities(now.contract, bundle.contract)


def _refused(model: str, version: int) -> NotAllowed:
    return NotAllowed(f"the certificate of version {version} of '{model}' says refused", where="certificate")
