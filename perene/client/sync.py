"""The client that waits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from perene.client import calls, connection
from perene.client.calls import CHUNK_ROWS, Answer, Known
from perene.client.values import Rows
from perene.client.wire import Lost, Patience, Reply, Send, Steps
from registry.contract import Contract

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


class Client:
    """Asks a Perene server; one client may serve many threads.

    Lost connections, 429, 502, 503 and 504 are tried again, after random, growing pauses and not before a
    `Retry-After`. A prediction keeps its `Idempotency-Key` over all attempts and a label its prediction's id, so that
    neither counts twice.

    Args:
        url: the server, else `$PERENE_URL`, else this machine's port 8000.
        key: the API key, else `$PERENE_KEY`.
        timeout_s: how long one attempt waits for the server.
        deadline_s: how long a request may take with all its attempts.
        retries: attempts after the first one.
        connections: kept open at most.

    Raises:
        ConfigInvalid: the address or the key cannot be one.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout_s: float = 10.0,
        deadline_s: float = 30.0,
        retries: int = 4,
        connections: int = 100,
    ) -> None:
        self._patience = Patience(timeout_s, deadline_s, retries)
        self._http = httpx.Client(**connection.options(url, key, self._patience, connections))

    def predict(
        self,
        model: str,
        rows: Rows,
        *,
        version: int | None = None,
        entity: str | None = None,
        at: datetime | None = None,
        idempotency_key: str | None = None,
    ) -> Answer:
        """Predict one row or several; returns the server's answer with `predictions` and `prediction_ids`.

        Args:
            model: a deployed model.
            rows: a row or rows of feature values by name: mappings, dataclasses, or a DataFrame.
            version: one that is deployed, instead of what the deployment says.
            entity: who the rows are about; keeps one entity on one arm of a trial.
            at: the event's own time, when it is not now.
            idempotency_key: your own name of this prediction, where a crash of yours may repeat it.

        Raises:
            ContractViolation: a row does not satisfy the contract.
            ModelUnknown, NotAllowed, Limited, Unreachable, …: see `perene.client.errors`.
        """
        return self._run(
            calls.predict(
                self._patience,
                model,
                rows,
                version=version,
                entity=entity,
                at=at,
                idempotency_key=idempotency_key,
            )
        )

    def predict_frame(
        self,
        model: str,
        frame: pd.DataFrame,
        *,
        version: int | None = None,
        entity: str | None = None,
        at: datetime | None = None,
        chunk_rows: int = CHUNK_ROWS,
    ) -> pd.DataFrame:
        """Predict a table of any length, in as many requests as the server's limits ask for.

        Returns:
            A table with the frame's index: `prediction`, `probabilities` or `scores` where the model has them,
            `prediction_id` for feedback, and the `version` that answered.

        Raises:
            ContractViolation: with the place in your frame; what was predicted before it stays logged.
        """
        return self._run(
            calls.predict_frame(
                self._patience, model, frame, version=version, entity=entity, at=at, chunk_rows=chunk_rows
            )
        )

    def feedback(self, model: str, items: Rows) -> dict[str, Any]:
        """Send labels: items, or a DataFrame, of `prediction_id`, `label` and perhaps `at` and `outcomes`.

        `outcomes` are numbers by name that came of a prediction, such as `{"revenue": 12.5}`, beside its label or
        instead of it. All are durable on the server when this returns; `results` says of each whether it was accepted.
        """
        return self._run(calls.feedback(self._patience, model, items))

    def explain(
        self,
        model: str,
        rows: Rows | None = None,
        *,
        prediction_ids: Sequence[str] | None = None,
        version: int | None = None,
        method: str = "auto",
    ) -> list[dict[str, Any]]:
        """Which columns moved predictions and by how much, of rows or of recorded predictions; one item for each.

        Args:
            model: a deployed model.
            rows: as for `predict`.
            prediction_ids: what predictions were answered, instead of rows.
            version: the version that explains, instead of the one that answered.
            method: `permutation` explains the answer itself where trees would explain what is before its link.
        """
        return self._run(
            calls.explain(self._patience, model, rows, prediction_ids=prediction_ids, version=version, method=method)
        )

    def models(self) -> list[dict[str, Any]]:
        """What is deployed, as far as the key may see."""
        return self._run(calls.models(self._patience))

    def schema(self, model: str) -> dict[str, Any]:
        """JSON Schema of a row."""
        return self._run(calls.schema(self._patience, model))

    def model(self, name: str) -> Model:
        """A deployed model by itself, with its contract: rows are checked before they are sent."""
        return Model(self, self._run(calls.contract(self._patience, name)))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                step = steps.send(self._send(step))
        except StopIteration as done:
            result: T = done.value
            return result

    def _send(self, step: Send) -> Reply | Lost:
        time.sleep(step.after_s)
        asked = step.request
        timeout = connection.timeout_of(step.timeout_s, self._patience)
        try:
            response = self._http.request(
                asked.method, asked.path, content=asked.body or None, headers=dict(asked.headers), timeout=timeout
            )
        except httpx.RequestError as error:
            return connection.lost_of(error)
        return connection.reply_of(response)


class Model:
    """A deployed model, with the contract it had when it was fetched.

    Rows are checked here first, with the server's own words; a contract that refuses them is fetched again before it
    is believed.
    """

    def __init__(self, client: Client, contract: Contract) -> None:
        self._client = client
        self._known = Known(contract)

    @property
    def contract(self) -> Contract:
        """Columns, types and answer."""
        return self._known.contract

    @property
    def name(self) -> str:
        """Of the model."""
        return self.contract.model

    @property
    def classes(self) -> Sequence[str | int | bool]:
        """In the order of `probabilities`; none of a regression."""
        return self.contract.output.classes

    def predict(
        self,
        rows: Rows,
        *,
        version: int | None = None,
        entity: str | None = None,
        at: datetime | None = None,
        idempotency_key: str | None = None,
    ) -> Answer:
        """As `Client.predict`; wrong rows are refused before they are sent."""
        return self._client._run(
            calls.predict(
                self._client._patience,
                self.name,
                rows,
                version=version,
                entity=entity,
                at=at,
                idempotency_key=idempotency_key,
                known=self._known,
            )
        )

    def predict_frame(
        self,
        frame: pd.DataFrame,
        *,
        version: int | None = None,
        entity: str | None = None,
        at: datetime | None = None,
        chunk_rows: int = CHUNK_ROWS,
    ) -> pd.DataFrame:
        """As `Client.predict_frame`; columns that are not the contract's stay here."""
        return self._client._run(
            calls.predict_frame(
                self._client._patience,
                self.name,
                frame,
                version=version,
                entity=entity,
                at=at,
                chunk_rows=chunk_rows,
                known=self._known,
            )
        )

    def feedback(self, items: Rows) -> dict[str, Any]:
        """As `Client.feedback`."""
        return self._client.feedback(self.name, items)
