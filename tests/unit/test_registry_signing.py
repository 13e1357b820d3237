"""Signatures of bundles: what a trusted key signed is accepted, and nothing that differs from it in one byte."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from registry.bundle import MANIFEST
from registry.errors import BundleCorrupt, ConfigInvalid
from registry.signing import (
    PAYLOAD_TYPE,
    SIGNATURES,
    Signer,
    load_signer,
    load_verifier,
    new_key,
    pae,
    sign_bundle,
    verify_bundle,
)

MINE = Signer(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = Signer(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a manifest; nothing else of a bundle is looked at."""
    (tmp_path / MANIFEST).write_text(json.dumps({"format": 2, "files": {"model.onnx": "ab" * 32}}))
    return tmp_path


def envelope(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / SIGNATURES).read_text())
    return found


def change(folder: Path, **fields: Any) -> None:
    (folder / SIGNATURES).write_text(json.dumps(envelope(folder) | fields))


def test_pae_is_that_of_the_specification() -> None:
    """The protocol's own test vector: its key, message and signature scheme aside, the bytes that are signed."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("é", b"\x00") == b"DSSEv1 2 \xc3\xa9 1 \x00"


def test_what_a_trusted_key_signed_is_accepted(folder: Path) -> None:
    """By any of several trusted keys; the answer says by which."""
    sign_bundle(folder, MINE)
    assert verify_bundle(folder, [OTHER.verifier, MINE.verifier]) == MINE.key_id
    MINE.key.public_key().verify(
        base64.b64decode(envelope(folder)["signatures"][0]["sig"]),
        pae(PAYLOAD_TYPE, (folder / MANIFEST).read_bytes()),
    )


def test_the_envelope_is_dsse(folder: Path) -> None:
    """Exactly its three fields, the payload being the manifest's bytes."""
    sign_bundle(folder, MINE)
    found = envelope(folder)
    assert found.keys() == {"payload", "payloadType", "signatures"}
    assert base64.b64decode(found["payload"]) == (folder / MANIFEST).read_bytes()
    assert [s.keys() for s in found["signatures"]] == [{"keyid", "sig"}]


def test_an_unsigned_bundle_is_refused(folder: Path) -> None:
    """With the reason."""
    with pytest.raises(BundleCorrupt, match="not signed"):
        verify_bundle(folder, [MINE.verifier])


def test_an_unknown_key_is_refused_whatever_it_calls_itself(folder: Path) -> None:
    """A key id is a hint: the trusted key's id on another key's signature does not help."""
    sign_bundle(folder, OTHER)
    with pytest.raises(BundleCorrupt, match="no trusted key"):
        verify_bundle(folder, [MINE.verifier])
    signature = envelope(folder)["signatures"][0]["sig"]
    change(folder, signatures=[{"keyid": MINE.key_id, "sig": signature}])
    with pytest.raises(BundleCorrupt, match="does not hold"):
        verify_bundle(folder, [MINE.verifier])


def test_a_wrong_or_missing_key_id_does_not_hide_a_good_signature(folder: Path) -> None:
    """The other way round."""
    sign_bundle(folder, MINE)
    signature = envelope(folder)["signatures"][0]["sig"]
    for entry in ({"keyid": "nobody", "sig": signature}, {"sig": signature}):
        change(folder, signatures=[entry])
        assert verify_bundle(folder, [MINE.verifier]) == MINE.key_id


def test_one_good_signature_among_several_is_enough(folder: Path) -> None:
    """Others are kept when one is added, and replaced when their own key signs again."""
    for signer in (OTHER, MINE, OTHER):
        sign_bundle(folder, signer)
    assert [s["keyid"] for s in envelope(folder)["signatures"]] == [MINE.key_id, OTHER.key_id]
    assert verify_bundle(folder, [MINE.verifier]) == MINE.key_id
    assert verify_bundle(folder, [OTHER.verifier]) == OTHER.key_id


def test_a_signature_over_an_older_manifest_is_dropped_on_signing(folder: Path) -> None:
    """It would vouch for other bytes."""
    sign_bundle(folder, OTHER)
    (folder / MANIFEST).write_text("{}")
    sign_bundle(folder, MINE)
    assert [s["keyid"] for s in envelope(folder)["signatures"]] == [MINE.key_id]


def test_a_signature_for_another_kind_of_document_is_refused(folder: Path) -> None:
    """Both when the type says so, and when the bytes were signed under another type."""
    other = "application/vnd.in-toto+json"
    signature = MINE.key.sign(pae(other, (folder / MANIFEST).read_bytes()))
    sign_bundle(folder, MINE)
    entry = {"keyid": MINE.key_id, "sig": base64.b64encode(signature).decode()}
    change(folder, payloadType=other, signatures=[entry])
    with pytest.raises(BundleCorrupt, match="another kind"):
        verify_bundle(folder, [MINE.verifier])
    change(folder, payloadType=PAYLOAD_TYPE)
    with pytest.raises(BundleCorrupt, match="does not hold"):
        verify_bundle(folder, [MINE.verifier])


def test_every_flipped_bit_of_the_manifest_is_found(folder: Path) -> None:
    """In the file, and in the payload of the envelope with it."""
    sign_bundle(folder, MINE)
    data = (folder / MANIFEST).read_bytes()
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1
        (folder / MANIFEST).write_bytes(broken)
        with pytest.raises(BundleCorrupt, match="another manifest"):
            verify_bundle(folder, [MINE.verifier])
        original = envelope(folder)["payload"]
        change(folder, payload=base64.b64encode(bytes(broken)).decode())
        with pytest.raises(BundleCorrupt, match="does not hold"):
            verify_bundle(folder, [MINE.verifier])
        change(folder, payload=original)


def test_every_flipped_bit_of_the_signature_is_found(folder: Path) -> None:
    """All 512 of them."""
    sign_bundle(folder, MINE)
    signature = base64.b64decode(envelope(folder)["signatures"][0]["sig"])
    for bit in range(8 * len(signature)):
        broken = bytearray(signature)
        broken[bit // 8] ^= 1 << bit % 8
        change(folder, signatures=[{"keyid": MINE.key_id, "sig": base64.b64encode(bytes(broken)).decode()}])
        with pytest.raises(BundleCorrupt, match="does not hold"):
            verify_bundle(folder, [MINE.verifier])


@pytest.mark.parametrize(
    "damage",
    [
        lambda e: b"",
        lambda e: b"\xff\x00",
        lambda e: b"[" * 100_000,
        lambda e: json.dumps([e]).encode(),
        lambda e: json.dumps({**e, "signatures": {}}).encode(),
        lambda e: json.dumps({**e, "signatures": [[]]}).encode(),
        lambda e: json.dumps({**e, "signatures": [{"sig": 5}]}).encode(),
        lambda e: json.dumps({**e, "signatures": [None]}).encode(),
        lambda e: json.dumps({**e, "payload": None}).encode(),
        lambda e: json.dumps({**e, "payload": "é"}).encode(),
        lambda e: json.dumps({**e, "payload": "%%%"}).encode(),
        lambda e: json.dumps({k: v for k, v in e.items() if k != "payloadType"}).encode(),
        lambda e: json.dumps({**e, "signatures": []}).encode(),
        lambda e: json.dumps({**e, "signatures": e["signatures"] * 1_000}).encode(),
        lambda e: json.dumps({**e, "signatures": [{"keyid": [], "sig": "!"}]}).encode(),
    ],
)
def test_a_damaged_envelope_is_refused(damage: Callable[[dict[str, Any]], bytes], folder: Path) -> None:
    """Never another error than ours."""
    sign_bundle(folder, MINE)
    (folder / SIGNATURES).write_bytes(damage(envelope(folder)))
    with pytest.raises(BundleCorrupt):
        verify_bundle(folder, [MINE.verifier])


def test_links_are_not_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Neither of the envelope nor of the manifest."""
    sign_bundle(folder, MINE)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in (SIGNATURES, MANIFEST):
        (folder / name).rename(elsewhere / name)
        (folder / name).symlink_to(elsewhere / name)
        with pytest.raises(BundleCorrupt):
            verify_bundle(folder, [MINE.verifier])
        (folder / name).unlink()
        (elsewhere / name).rename(folder / name)
    assert verify_bundle(folder, [MINE.verifier]) == MINE.key_id


def test_a_new_key_is_private_and_comes_back(tmp_path: Path, folder: Path) -> None:
    """For this account only; it never replaces a file; trusted as text, or as a file in two forms."""
    path = tmp_path / "key.pem"
    made = new_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ConfigInvalid, match="cannot be written"):
        new_key(path)
    sign_bundle(folder, load_signer(path))
    (tmp_path / "key.txt").write_text(made.text + "\n")
    pem = made.key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub").write_bytes(pem)
    for trusted in (made.text, str(tmp_path / "key.txt"), str(tmp_path / "key.pub")):
        assert verify_bundle(folder, [load_verifier(trusted)]) == made.key_id


@pytest.mark.parametrize(
    "text", ["", "nothing", "ed25519:", "ed25519:AAAA", "ed25519:%", "ed25519:" + base64.b64encode(bytes(31)).decode()]
)
def test_what_is_no_key_is_refused(text: str) -> None:
    """Before anything is served by it."""
    with pytest.raises(ConfigInvalid, match="not a key"):
        load_verifier(text)


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    """A private key is not trusted as a public one, and a curve of another kind is none of ours."""
    private = tmp_path / "private.pem"
    new_key(private)
    with pytest.raises(ConfigInvalid, match="not a key"):
        load_verifier(str(private))
    key = ec.generate_private_key(ec.SECP256R1())
    wrong = tmp_path / "wrong.pem"
    wrong.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(ConfigInvalid, match="not a key"):
        load_signer(wrong)
    wrong.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(ConfigInvalid, match="not a key"):
        load_verifier(str(wrong))
    with pytest.raises(ConfigInvalid, match="not a key"):
        load_signer(tmp_path / "missing.pem")
