"""Answers to single rows, kept for as long as their version is loaded."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
from prometheus_client import Counter

from serving.engine import Answer


class AnswerCache:
    """The answers that were asked for last. Each version has its own, so none can answer for another.

    The key is what the graph sees, after decoding: `3` and `3.0` for an integer are one row, `0.0` and `-0.0` are two.
    Used from one event loop.
    """

    def __init__(self, most: int, counter: Counter, model: str) -> None:
        self._most = most
        self._hits = counter.labels(model=model, result="hit")
        self._misses = counter.labels(model=model, result="miss")
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()

    def get(self, key: bytes) -> Answer | None:
        """The answer, if it is here; counted."""
        found = self._answers.get(key)
        if found is None:
            self._misses.inc()
            return None
        self._answers.move_to_end(key)
        self._hits.inc()
        return found

    def put(self, key: bytes, answer: Answer) -> None:
        """Keep an answer; the one not asked for longest makes room."""
        self._answers[key] = answer
        self._answers.move_to_end(key)
        if len(self._answers) > self._most:
            self._answers.popitem(last=False)

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._answers)


def row_key(tensors: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The key of one packed row: of a fixed length, whatever the texts in it are."""
    digest = hashlib.blake2b(digest_size=32)
    for name in sorted(tensors):
        values = tensors[name]
        if values.dtype != object:
            digest.update(values.tobytes())
            continue
        for text in values.ravel().tolist():
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.digest()
