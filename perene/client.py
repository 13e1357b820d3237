"""The client for apps: predictions and feedback over HTTP, with retries that cannot count twice."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import httpx

from registry.errors import ContractViolation, ModelUnknown, NotAllowed, PereneError, StoreUnavailable

_RETRIES = 4
_BY_STATUS: dict[int, type[PereneError]] = {
    401: NotAllowed,
    403: NotAllowed,
    404: ModelUnknown,
    422: ContractViolation,
}


class Client:
    """Talks to a Perene server.

    Connection errors and 503 are tried again up to four times, after 0.1 s doubling. Feedback is idempotent by
    prediction id, so a repeat changes nothing; a repeated prediction is a new prediction.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", key: str = "", *, timeout_s: float = 10.0) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)

    def predict(
        self,
        model: str,
        rows: Sequence[Mapping[str, Any]] | Mapping[str, Any],
        *,
        entity: str | None = None,
        at: datetime | None = None,
    ) -> dict[str, Any]:
        """Predict one row or several; returns the server's answer with `predictions` and `prediction_ids`.

        Args:
            model: a deployed model.
            rows: feature values by name.
            entity: who the rows are about; keeps one entity on one arm of a trial.
            at: the event's own time, when it is not now.

        Raises:
            ContractViolation: a row does not satisfy the contract.
            ModelUnknown, NotAllowed, StoreUnavailable: as named.
        """
        body: dict[str, Any] = {"rows": [dict(rows)] if isinstance(rows, Mapping) else [dict(row) for row in rows]}
        if entity is not None:
            body["entity"] = entity
        if at is not None:
            body["at"] = at.isoformat()
        return self._post(f"/models/{model}/predict", body)

    def feedback(self, model: str, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Send labels: `[{"prediction_id", "label", "at"?}]`. Durable on the server when this returns."""
        return self._post(f"/models/{model}/feedback", {"items": [dict(item) for item in items]})

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        for attempt in range(_RETRIES + 1):
            try:
                response = self._http.post(path, json=body)
            except httpx.TransportError as error:
                if attempt == _RETRIES:
                    raise StoreUnavailable(
                        "the server does not answer", where=str(self._http.base_url), hint="is perene up running?"
                    ) from error
            else:
                if response.status_code != 503 or attempt == _RETRIES:
                    return _answer(response)
            time.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")


def _answer(response: httpx.Response) -> dict[str, Any]:
    try:
        data = response.json()
    except ValueError:
        data = {}
    if response.is_success and isinstance(data, dict):
        return data
    error = data.get("error", {}) if isinstance(data, dict) else {}
    kind = _BY_STATUS.get(response.status_code, StoreUnavailable)
    raise kind(
        error.get("message") or f"the server answered {response.status_code}",
        where=error.get("where") or "",
        expected=error.get("expected") or "",
        got=error.get("got") or "",
        hint=error.get("hint") or "",
    )
