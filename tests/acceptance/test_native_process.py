"""`python -m serving` with a native model: kill -9 of its process under load, a lean server, nothing left behind."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from registry.log import build_bundle
from tests.acceptance.test_serving_process import FORBIDDEN, Server, alive, in_threads, join, libraries, until
from tests.conftest import toy_frame
from tests.integration.serving_toy import Cache

CLIENTS, REQUESTS = 4, 60
"""After the last kill each of the clients still asks so often."""


@pytest.fixture(scope="module")
def hashed() -> tuple[Any, pd.DataFrame, Any]:
    """Text hashed to columns, for which ONNX has no operator."""
    frame = toy_frame(1_200)[["carrier", "hour"]]
    encoder = make_column_transformer((HashingVectorizer(n_features=16), "carrier"), remainder="passthrough")
    target = 2.0 * frame["hour"]
    return make_pipeline(encoder, Ridge()).fit(frame, target), frame, target


@pytest.fixture
def cache(tmp_path: Path, hashed: tuple[Any, pd.DataFrame, Any]) -> Cache:
    estimator, frame, target = hashed
    bundle = build_bundle(estimator, frame, target, name="toy", to=tmp_path / "bundle", runtime="native")
    made = Cache(tmp_path / "home" / "cache")
    made.add(1, bundle.path)
    return made


def native(server: Server) -> psutil.Process | None:
    """The process of the model."""
    for child in psutil.Process(server.process.pid).children():
        if "registry.native.worker" in child.cmdline():
            return child
    return None


def test_the_model_dies_and_the_server_does_not(cache: Cache, hashed: tuple[Any, pd.DataFrame, Any]) -> None:
    """Every request is answered rightly over two kills; the server itself holds no library of estimators."""
    key = cache.key({"predict", "read"})
    cache.deploy(1)
    wanted = hashed[0].predict(pd.DataFrame({"carrier": "AA", "hour": range(24)})).tolist()
    replies: Counter[tuple[int, bool]] = Counter()
    over = threading.Event()
    with Server(cache.folder.parent, key) as server:
        server.ready()

        def client(n: int) -> None:
            connection = server.connect()
            left, k = REQUESTS, 0
            while left:
                left -= over.is_set()
                k += 1
                hour = (n * REQUESTS + k) % 24
                status, body = server.on(connection, "POST", "/predict", {"rows": [{"carrier": "AA", "hour": hour}]})
                right = status == 200 and body["predictions"] == pytest.approx([wanted[hour]], rel=1e-9)
                replies[status, right] += 1
            connection.close()

        threads = in_threads(CLIENTS, client)
        for least in (20, 120):
            until(lambda least=least: sum(replies.values()) >= least, "requests were not answered")  # type: ignore[misc]
            until(lambda: native(server) is not None, "it was not started again")
            found = native(server)
            assert found is not None
            os.kill(found.pid, signal.SIGKILL)
        over.set()
        join(threads)
        assert set(replies) == {(200, True)}
        assert replies.total() > CLIENTS * REQUESTS
        mapped = libraries(server.process.pid)
        assert mapped & set(FORBIDDEN) == set()
        assert {"sklearn", "skops", "scipy"} & mapped == set()
        last = native(server)
        assert last is not None
        assert "sklearn" in libraries(last.pid)
        # a server that is killed leaves no model behind
        server.process.kill()
        until(lambda: not alive(last), "the process of the model outlived the server")
