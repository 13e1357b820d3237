"""Signed from end to end: logged with a key, through MLflow, checked before serving; refused where it is not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perene.api import open_store, promote
from perene.cli import app
from perene.config import Settings
from perene.up import serve_program, worker_program
from registry.bundle import read_bundle
from registry.errors import BundleCorrupt, ConfigInvalid
from registry.ledger import Ledger
from registry.mlflow_store import Store
from registry.signing import SIGNATURES, Signer, load_signer, load_verifier, new_key, verify_bundle
from registry.signing_settings import SigningSettings
from serving.main import programs
from serving.puller import Puller
from serving.settings import ServingSettings
from serving.state import State
from tests.integration.serving_toy import offset_bundle


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    new_key(tmp_path / "key.pem")
    return load_signer(tmp_path / "key.pem")


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    with closing(Ledger.open(f"sqlite:///{home / 'ledger.db'}")) as opened:
        yield opened


def shelf(home: Path, signer: Signer | None) -> Store:
    return Store(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts", signer=signer)


def test_a_signature_survives_mlflow(toy_bundle: Path, home: Path, signer: Signer, tmp_path: Path) -> None:
    """Registered with a key, downloaded again: the signature holds, and the bundle is as good as without one."""
    bundle = shutil.copytree(toy_bundle, tmp_path / "bundle")
    shelf(home, signer).register(bundle, "toy")
    got = shelf(home, None).download("toy", 1, tmp_path / "got")
    assert verify_bundle(got, [signer.verifier]) == signer.key_id
    assert read_bundle(got).digest == read_bundle(toy_bundle).digest


def test_switching_signing_on_makes_a_signed_version(
    toy_bundle: Path, home: Path, signer: Signer, tmp_path: Path
) -> None:
    """The same content, unsigned before, is a version of its own once it is signed; and then the same again."""
    bundle = shutil.copytree(toy_bundle, tmp_path / "bundle")
    assert [shelf(home, key).register(bundle, "toy") for key in (None, signer, signer, None)] == [1, 2, 2, 1]


def test_only_signed_versions_are_served_where_keys_are_trusted(
    toy_bundle: Path, home: Path, signer: Signer, ledger: Ledger, tmp_path: Path
) -> None:
    """Signed: served. Unsigned, changed after signing, of another key: refused with the reason, the old one stays."""
    new_key(tmp_path / "other.pem")
    shelf(home, signer).register(offset_bundle(toy_bundle, tmp_path / "one", 1.0), "toy")
    shelf(home, None).register(offset_bundle(toy_bundle, tmp_path / "two", 2.0), "toy")
    shelf(home, load_signer(tmp_path / "other.pem")).register(offset_bundle(toy_bundle, tmp_path / "three", 3.0), "toy")
    puller = Puller(home / "cache", shelf(home, None).download, trusted=(signer.verifier,))
    state = State()
    for version, reason in ((1, None), (2, "it is not signed"), (3, "no trusted key has signed it")):
        ledger.move("toy", expected_revision=version - 1, champion=version, actor="test", reason="test")
        state = puller.state(ledger, state, 0.0)
        assert state.deployments["toy"].champion == 1
        assert [f.reason for f in state.failures] == ([f"the bundle is refused: {reason}"] if reason else [])
    lenient = Puller(home / "cache-lenient", shelf(home, None).download)
    assert lenient.state(ledger, State(), 0.0).deployments["toy"].champion == 3


def test_only_signed_versions_may_be_promoted_where_keys_are_trusted(
    toy_bundle: Path, home: Path, signer: Signer, ledger: Ledger, tmp_path: Path
) -> None:
    """What no server would take does not become champion in the ledger either."""
    shelf(home, signer).register(offset_bundle(toy_bundle, tmp_path / "one", 1.0), "toy")
    shelf(home, None).register(offset_bundle(toy_bundle, tmp_path / "two", 2.0), "toy")
    ledger.move("toy", expected_revision=0, champion=1, actor="test", reason="test")
    settings = Settings(home=home, signing=SigningSettings(trusted=(signer.verifier.text,)))
    with pytest.raises(BundleCorrupt, match="not signed"):
        promote("toy", 2, reason="test", settings=settings)
    assert ledger.deployments()["toy"].champion == 1
    assert promote("toy", 2, reason="test", settings=Settings(home=home)).champion == 2


def test_what_is_cached_is_checked_again(
    toy_bundle: Path, home: Path, signer: Signer, ledger: Ledger, tmp_path: Path
) -> None:
    """A file and its manifest changed in the cache, consistently: only the signature tells."""
    shelf(home, signer).register(offset_bundle(toy_bundle, tmp_path / "one", 1.0), "toy")
    ledger.move("toy", expected_revision=0, champion=1, actor="test", reason="test")
    puller = Puller(home / "cache", shelf(home, None).download, trusted=(signer.verifier,))
    assert puller.state(ledger, State(), 0.0).failures == []
    cached = home / "cache" / "bundles" / "toy" / "1"
    kept = (cached / SIGNATURES).read_bytes()
    evil = offset_bundle(toy_bundle, tmp_path / "evil", 666.0)
    shutil.rmtree(cached)
    shutil.copytree(evil, cached)
    (cached / SIGNATURES).write_bytes(kept)
    (failure,) = puller.state(ledger, State(), 0.0).failures
    assert "over another manifest" in failure.reason
    # what was refused is gone, and the next look fetches the real one
    assert puller.state(ledger, State(), 0.0).failures == []


def test_the_command_line_makes_a_key_that_settings_take(home: Path, tmp_path: Path) -> None:
    """Printed once; the file is private, and is not written over."""
    out = tmp_path / "made.pem"
    made = CliRunner().invoke(app, ["signing", "new", "--out", str(out), "--json"])
    assert made.exit_code == 0
    said = json.loads(made.stdout.splitlines()[0])
    assert said["id"] == load_signer(out).key_id == load_verifier(said["public"]).key_id
    assert os.stat(out).st_mode & 0o077 == 0
    assert isinstance(CliRunner().invoke(app, ["signing", "new", "--out", str(out)]).exception, ConfigInvalid)
    settings = Settings.model_validate({"home": home, "signing": {"key": out, "trusted": [said["public"]]}})
    assert open_store(settings)._signer.key_id == said["id"]
    with pytest.raises(ConfigInvalid, match="not a key"):
        open_store(Settings.model_validate({"home": home, "signing": {"key": tmp_path / "none"}}))


def test_trusted_keys_reach_the_puller(tmp_path: Path) -> None:
    """From the settings to its command line, however a key begins."""
    puller, _ = programs(ServingSettings(), tmp_path, "", "", ["ed25519:AAAA", "-odd"])
    assert [a for a in puller.arguments if a.startswith("--trusted")] == ["--trusted=ed25519:AAAA", "--trusted=-odd"]


def test_keys_that_are_none_stop_the_start(tmp_path: Path) -> None:
    """Before a process runs that would refuse everything, or sign nothing."""
    with pytest.raises(ConfigInvalid, match="not a key"):
        serve_program(Settings.model_validate({"home": tmp_path, "signing": {"trusted": ["ed25519:AAAA"]}}))
    with pytest.raises(ConfigInvalid, match="not a key"):
        worker_program(Settings.model_validate({"home": tmp_path, "signing": {"key": tmp_path / "none.pem"}}))


def test_the_error_says_what_to_do(toy_bundle: Path, signer: Signer) -> None:
    """Both ways out."""
    with pytest.raises(BundleCorrupt) as caught:
        verify_bundle(toy_bundle, [signer.verifier])
    assert "[signing] key" in caught.value.hint
    assert "trusted" in caught.value.hint
