"""The clients for apps: predictions and feedback over HTTP, with retries that cannot count twice."""

from __future__ import annotations

from perene.client.asynchronous import AsyncClient, AsyncModel
from perene.client.calls import Answer
from perene.client.sync import Client, Model

__all__ = ["Answer", "AsyncClient", "AsyncModel", "Client", "Model"]
