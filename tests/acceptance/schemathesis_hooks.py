"""Loaded by Schemathesis: what the OpenAPI document cannot say, and a repair."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from uuid import uuid4

import schemathesis
import schemathesis.transport.requests
from hypothesis import strategies

# event times are refused before 1900 and beyond tomorrow, which no keyword of JSON Schema says
_TIMES = strategies.datetimes(datetime(1900, 1, 2), datetime(2026, 1, 1))  # noqa: DTZ001 - Hypothesis wants them bare
schemathesis.openapi.format("date-time", _TIMES.map(lambda moment: moment.isoformat(timespec="seconds") + "Z"))

# grafana-client brings urllib3-future, whose pools have no keys: a dropped connection is tried again without a count
schemathesis.transport.requests._count_opened_connections = lambda session: 0

_KEY = re.compile(r"[!-~]{1,255}\Z")


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    """A key that came before, with another request, hides every other answer behind 409: each case has its own."""
    headers: Any = case.headers or {}
    if _KEY.match(str(headers.get("Idempotency-Key", ""))):
        headers["Idempotency-Key"] = str(uuid4())


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
    """A header that nobody knows is no error in HTTP."""
    return "x-schemathesis-unknown-property" not in (case.headers or {})
