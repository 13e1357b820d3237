"""The client of asynchronous apps."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
import httpx

from perene.client import calls, connection
from perene.client.calls import CHUNK_ROWS, Answer, Known
from perene.client.values import Rows
from perene.client.wire import Lost, Patience, Reply, Send, Steps
from registry.contract import Contract

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


class AsyncClient:
    """`perene.Client` for asynchronous apps; one client may serve many tasks.

    It takes the same arguments, and its methods are the same with `await`.

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
        self._http = httpx.AsyncClient(**connection.options(url, key, self._patience, connections))

    async def predict(
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
        return await self._run(
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

    async def predict_frame(
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
        return await self._run(
            calls.predict_frame(
                self._patience, model, frame, version=version, entity=entity, at=at, chunk_rows=chunk_rows
            )
        )

    async def feedback(self, model: str, items: Rows) -> dict[str, Any]:
        """Send labels: items, or a DataFrame, of `prediction_id`, `label` and perhaps `at` and `outcomes`.

        As `Client.feedback`: all are durable on the server when this returns, and `results` says what was accepted.
        """
        return await self._run(calls.feedback(self._patience, model, items))

    async def explain(
        self,
        model: str,
        rows: Rows | None = None,
        *,
        prediction_ids: Sequence[str] | None = None,
        version: int | None = None,
        method: str = "auto",
    ) -> list[dict[str, Any]]:
        """As `Client.explain`."""
        return await self._run(
            calls.explain(self._patience, model, rows, prediction_ids=prediction_ids, version=version, method=method)
        )

    async def models(self) -> list[dict[str, Any]]:
        """What is deployed, as far as the key may see."""
        return await self._run(calls.models(self._patience))

    async def schema(self, model: str) -> dict[str, Any]:
        """JSON Schema of a row."""
        return await self._run(calls.schema(self._patience, model))

    async def model(self, name: str) -> AsyncModel:
        """A deployed model by itself, with its contract: rows are checked before they are sent."""
        return AsyncModel(self, await self._run(calls.contract(self._patience, name)))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                step = steps.send(await self._send(step))
        except StopIteration as done:
            result: T = done.value
            return result

    async def _send(self, step: Send) -> Reply | Lost:
        await anyio.sleep(step.after_s)
        asked = step.request
        timeout = connection.timeout_of(step.timeout_s, self._patience)
        try:
            response = await self._http.request(
                asked.method, asked.path, content=asked.body or None, headers=dict(asked.headers), timeout=timeout
            )
        except httpx.RequestError as error:
            return connection.lost_of(error)
        return connection.reply_of(response)


class AsyncModel:
    """A deployed model, with the contract it had when it was fetched.

    Rows are checked here first, with the server's own words; a contract that refuses them is fetched again before it
    is believed.
    """

    def __init__(self, client: AsyncClient, contract: Contract) -> None:
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

    async def predict(
        self,
        rows: Rows,
        *,
        version: int | None = None,
        entity: str | None = None,
        at: datetime | None = None,
        idempotency_key: str | None = None,
    ) -> Answer:
        """As `AsyncClient.predict`; wrong rows are refused before they are sent."""
        return await self._client._run(
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

    async def predict_frame(
        self,
        frame: pd.DataFrame,
        *,
        version: int | None = None,
        entity: str | None = None,
        at: datetime | None = None,
        chunk_rows: int = CHUNK_ROWS,
    ) -> pd.DataFrame:
        """As `AsyncClient.predict_frame`; columns that are not the contract's stay here."""
        return await self._client._run(
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

    async def feedback(self, items: Rows) -> dict[str, Any]:
        """As `AsyncClient.feedback`."""
        return await self._client.feedback(self.name, items)
