"""An answer in Perene's own words; what all answers of a version have in common is put into words once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from serving.observed.timing import server_timing

if TYPE_CHECKING:
    from serving.dataplane import Predicted

_encode: Final = msgspec.json.Encoder().encode


def body_of(predicted: Predicted) -> bytes:
    """The answer as JSON."""
    version, answer = predicted.version, predicted.answer
    begin = _begin(version.model, version.version, predicted.arm)
    # an id is a plain word: it needs no encoder
    end = '","'.join(predicted.ids).encode()
    if answer.scores is not None:
        beside = b',"scores":' + _encode(answer.scores)
    elif version.contract.output.classes:
        beside = b',"probabilities":' + _encode(answer.values)
    else:
        beside = b""
    return b'%b%b%b,"prediction_ids":["%b"]}' % (begin, _encode(answer.predictions), beside, end)


def head_of(predicted: Predicted, request_id: str, length: int) -> bytes:
    """The headers of the fast lane's answer, as the application writes them, each with its end of line."""
    named = _named(predicted.version.model, predicted.version.version)
    timing = server_timing(predicted.parse_s, predicted.queue_s, predicted.infer_s)
    return (
        f"x-request-id: {request_id}{named}{predicted.ids[0]}\r\nserver-timing: {timing}\r\n"
        f"content-length: {length}\r\ncontent-type: application/json\r\n"
    ).encode()


def line_of(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Headers as they are written, each with its end of line."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


@lru_cache(maxsize=1024)
def _begin(model: str, version: int, arm: str) -> bytes:
    return _encode({"model": model, "version": version, "arm": arm})[:-1] + b',"predictions":'


@lru_cache(maxsize=1024)
def _named(model: str, version: int) -> str:
    return f"\r\nx-model-name: {model}\r\nx-model-version: {version}\r\nx-prediction-id: "
