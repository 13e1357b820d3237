"""Whether an alias moved in MLflow, without importing it: milliseconds instead of seconds and 200 MB.

From MLflow's own table, or its REST API where it is a server. Only for comparing with the last look; what to do is
decided in a child that asks MLflow itself.
"""

from __future__ import annotations

from pathlib import Path

import httpx
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

Peeked = frozenset[tuple[str, str, str]]
"""(model, alias, version) of every alias."""


def peek(tracking_uri: str, *, seconds: float = 2.0) -> Peeked | None:
    """Every alias in MLflow; None when this way does not tell (then ask MLflow itself)."""
    if tracking_uri.startswith(("http://", "https://")):
        return _from_server(tracking_uri.rstrip("/"), seconds)
    return _from_table(tracking_uri)


def _from_table(url: str) -> Peeked | None:
    path = url.removeprefix("sqlite:///")
    if path != url and not Path(path).is_file():
        return None  # connecting would make an empty file
    try:
        engine = create_engine(url)
    except (SQLAlchemyError, ImportError):
        return None
    try:
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT name, alias, version FROM registered_model_aliases"))
            return frozenset((str(name), str(alias), str(version)) for name, alias, version in rows)
    except SQLAlchemyError:
        return None
    finally:
        engine.dispose()


def _from_server(uri: str, seconds: float) -> Peeked | None:
    found: set[tuple[str, str, str]] = set()
    token = ""
    try:
        with httpx.Client(timeout=seconds) as client:
            while True:
                page = client.get(
                    f"{uri}/api/2.0/mlflow/registered-models/search",
                    params={"max_results": "1000", **({"page_token": token} if token else {})},
                )
                page.raise_for_status()
                body = page.json()
                for model in body.get("registered_models", ()):
                    found |= {(model["name"], a["alias"], str(a["version"])) for a in model.get("aliases", ())}
                token = body.get("next_page_token", "")
                if not token:
                    return frozenset(found)
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return None
