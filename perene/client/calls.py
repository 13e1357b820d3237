"""What a client can ask, as steps: each call is the same below the client that waits and the one that does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, cast
from urllib.parse import quote

from monitoring.intake.ids import uuid7
from perene.client import frames
from perene.client.contract import check_rows, chosen_columns, contract_of
from perene.client.values import Rows, plain, rows_of
from perene.client.wire import Patience, Steps, answer, call, get, post, with_headers
from registry.contract import Contract
from registry.errors import ConfigInvalid, ContractViolation
from registry.names import check_name
from serving.errors import TooLarge

if TYPE_CHECKING:
    import pandas as pd

CHUNK_ROWS: Final = 10_000
"""Rows of one request of many, at most; the server says when it takes fewer."""
FRESH_S: Final = 10.0
"""Age of a contract below which it is not fetched again."""
T = TypeVar("T")


class Answer(TypedDict, total=False):
    """What a server answers to a prediction. A classification has probabilities, or the scores it has instead."""

    model: str
    version: int
    arm: str
    predictions: list[Any]
    probabilities: list[list[float]]
    scores: list[Any]
    prediction_ids: list[str]


def predict(
    patience: Patience,
    model: str,
    rows: Rows,
    *,
    version: int | None,
    entity: str | None,
    at: datetime | None,
    idempotency_key: str | None,
    known: Known | None = None,
) -> Steps[Answer]:
    """Predict one row or several with one request; rows are checked first where the contract is known."""
    body: dict[str, Any] = {"rows": rows_of(rows)}
    if known is not None:
        yield from settled(patience, known, partial(check_rows, rows=body["rows"]))
    if entity is not None:
        body["entity"] = entity
    if at is not None:
        body["at"] = plain(at)
    request = with_headers(post(_predict_path(model, version), body), _name(patience, idempotency_key))
    return cast(Answer, answer((yield from call(request, patience))))


def predict_frame(
    patience: Patience,
    model: str,
    frame: Any,
    *,
    version: int | None,
    entity: str | None,
    at: datetime | None,
    chunk_rows: int,
    known: Known | None = None,
) -> Steps[pd.DataFrame]:
    """Predict a table of any length with as many requests as it takes."""
    names = frames.names_of(frame)
    if known is not None:
        chosen = yield from settled(patience, known, partial(chosen_columns, names=names))
        frame = frame.iloc[:, [names.index(name) for name in chosen]]  # a column may be called 7, which is "7" here
    about = {"x-entity": entity, "x-event-time": None if at is None else str(plain(at))}
    headers = {name: value for name, value in about.items() if value is not None}
    path, parts, start, size = _predict_path(model, version), [], 0, chunk_rows
    while start < len(frame):
        part = frame.iloc[start : start + size]
        try:
            request = frames.request_of(path, part, {**headers, **_name(patience)})
            if len(request.body) > frames.MOST_BYTES and len(part) > 1:
                raise TooLarge("more bytes than a server takes")
            parts.append(frames.answers_of((yield from call(request, patience))))
        except TooLarge:
            if len(part) == 1:
                raise
            size = len(part) // 2
            continue
        except ContractViolation as error:
            raise frames.moved(error, start) from error
        start += len(part)
    return frames.joined(parts, frame.index)


def feedback(patience: Patience, model: str, items: Rows, *, chunk_rows: int = CHUNK_ROWS) -> Steps[dict[str, Any]]:
    """Send labels, many in several requests."""
    labels = [_told(item) for item in rows_of(items, "items", within="outcomes")]
    path = f"/models/{check_name(model)}/feedback"
    results: list[Any] = []
    size = chunk_rows
    while len(results) < len(labels):
        part = labels[len(results) : len(results) + size]
        try:
            results += answer((yield from call(post(path, {"items": part}), patience)))["results"]
        except TooLarge:
            if len(part) == 1:
                raise
            size = len(part) // 2
    return {"results": results}


def explain(
    patience: Patience,
    model: str,
    rows: Rows | None,
    *,
    prediction_ids: Sequence[str] | None,
    version: int | None,
    method: str,
) -> Steps[list[dict[str, Any]]]:
    """Ask which columns moved predictions: of rows, or of recorded predictions."""
    if (rows is None) is (prediction_ids is None):
        raise ConfigInvalid("rows or prediction_ids are needed, and not both", where="explain")
    body = {"rows": rows_of(rows)} if rows is not None else {"prediction_ids": list(prediction_ids or ())}
    query = "" if method == "auto" else f"?method={quote(method, safe='')}"
    pinned = {} if version is None else {"x-model-version": str(int(version))}
    request = with_headers(post(f"/models/{check_name(model)}/explain{query}", body), pinned)
    found = answer((yield from call(request, patience)))["explanations"]
    return cast(list[dict[str, Any]], found)


def models(patience: Patience) -> Steps[list[dict[str, Any]]]:
    """What is deployed, as far as the key may see."""
    found = answer((yield from call(get("/models"), patience)))["models"]
    return cast(list[dict[str, Any]], found)


def schema(patience: Patience, model: str) -> Steps[dict[str, Any]]:
    """JSON Schema of a row."""
    return answer((yield from call(get(f"/models/{check_name(model)}/schema"), patience)))


def contract(patience: Patience, model: str) -> Steps[Contract]:
    """The contract of a deployed model."""
    facts = answer((yield from call(get(f"/models/{check_name(model)}"), patience)))
    return contract_of(model, (yield from schema(patience, model)), facts)


@dataclass
class Known:
    """The contract that a client goes by, and when it was fetched."""

    contract: Contract
    fetched: float = field(default_factory=time.monotonic)


def settled(patience: Patience, known: Known, test: Callable[[Contract], T]) -> Steps[T]:
    """`test` by the contract at hand; before it may refuse, an old contract is fetched again.

    Raises:
        ContractViolation: the test's.
    """
    try:
        return test(known.contract)
    except ContractViolation:
        if time.monotonic() - known.fetched < FRESH_S:
            raise
    known.contract, known.fetched = (yield from contract(patience, known.contract.model)), time.monotonic()
    return test(known.contract)


def _name(patience: Patience, given: str | None = None) -> dict[str, str]:
    """The header that makes attempts one prediction; what is asked once needs none, and no server to remember it."""
    if given is None and not patience.retries:
        return {}
    return {"idempotency-key": given or uuid7()}


def _predict_path(model: str, version: int | None) -> str:
    pinned = "" if version is None else f"/versions/{int(version)}"
    return f"/models/{check_name(model)}{pinned}/predict"


def _told(item: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of an item: in a frame a time, a label or an outcome that is not known is a null."""
    known = {name: value for name, value in item.items() if value is not None or name not in ("at", "outcomes")}
    outcomes = known.get("outcomes")
    if isinstance(outcomes, dict):
        known["outcomes"] = {name: value for name, value in outcomes.items() if value is not None}
        if known["outcomes"] and known.get("label") is None:
            known.pop("label", None)
    return known
