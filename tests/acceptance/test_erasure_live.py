"""Erasing a person beside a server that answers: it goes on, nothing of theirs is left, and nobody else loses a row."""

from __future__ import annotations

import threading
from pathlib import Path

import perene
from monitoring.intake.pseudonyms import load_pseudonyms
from monitoring.lake.lake import Lake
from perene.config import Settings
from perene.erasure.erase import Asked, erase
from perene.erasure.verify import verify
from tests.acceptance.test_serving_process import Server, until
from tests.integration.serving_toy import ROW, Cache, offset_bundle

ANNA = "anna@example.org"


def test_a_person_is_erased_beside_a_server_that_answers(tmp_path: Path, toy_bundle: Path) -> None:
    """Others are answered all the while, and each of their rows is in the lake; Anna's next one is new data."""
    cache = Cache(tmp_path / "home" / "cache")
    cache.add(1, offset_bundle(toy_bundle, tmp_path / "1", 100.0))
    key = cache.key({"predict", "feedback", "read"})
    cache.deploy(1)
    home, stop = cache.folder.parent, threading.Event()
    hers: list[str] = []
    others: list[str] = []

    with Server(home, key) as server, perene.Client(f"http://127.0.0.1:{server.port}", key) as client:
        server.ready()

        def ask() -> None:
            with perene.Client(f"http://127.0.0.1:{server.port}", key) as mine:
                while not stop.is_set():
                    others.extend(mine.predict("toy", [ROW, ROW], entity="bert")["prediction_ids"])

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for n in range(20):
                hers += client.predict("toy", ROW, entity=ANNA, idempotency_key=f"order-{n}")["prediction_ids"]
            client.feedback("toy", [{"prediction_id": hers[0], "label": 1.0}])
            done = erase(Settings(home=home), Asked("toy", ANNA))
            assert done.receipt["predictions"] == len(hers)
            again = client.predict("toy", ROW, entity=ANNA)["prediction_ids"]
        finally:
            stop.set()
            asking.join()
        lake = Lake(home / "events")

        def ids() -> list[str]:
            found: list[str] = lake.read("toy", "prediction").column("_id").to_pylist()
            return found

        until(lambda: {*others, *again} <= set(ids()), "an event of others did not arrive")
    assert sorted(ids()) == sorted([*others, *again])
    assert verify(Settings(home=home), done.path, subject=ANNA) == []
    assert lake.read("toy", "prediction").column("_entity").to_pylist().count(load_pseudonyms(home)(ANNA)) == 1
    words = [ANNA.encode(), *(identifier.encode() for identifier in hers)]
    left = [path for path in home.rglob("*") if path.is_file() and "_erased" not in path.parts]
    assert [path for path in left if any(word in _bytes(path) for word in words)] == []


def _bytes(path: Path) -> bytes:
    """What a file holds; nothing of one that its owner has just removed."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
