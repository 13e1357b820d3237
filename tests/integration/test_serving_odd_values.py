"""Any value at any place of a body: the caller is answered or told what is wrong; the server is never at fault."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.integration.serving_app import run
from tests.integration.serving_toy import ROW, Cache
from tests.integration.two_lanes import lanes

Place = tuple[str | int, ...]
BEYOND = object()
"""Written as 1e999: Python has no number that is written so."""
ODD: list[Any] = [
    *(10**400, -(10**400), 2**63, -(2**63) - 1, 2**53 + 1, 1e308, -1e308, 5e-324, -0.0, BEYOND),
    *(None, True, "", "\0", "\u202e", "x" * 5_000, "1e400", "NaN", [], {}, [[[]]], {"": 0}, [None]),
]  # fmt: skip
TENSORS = [
    {"name": name, "shape": [1], "datatype": "BYTES" if isinstance(value, str) else "FP64", "data": [value]}
    for name, value in ROW.items()
]
BODIES: list[tuple[str, Any]] = [
    ("/models/toy/predict", {"rows": [ROW], "entity": "e", "at": "2026-01-01T00:00:00Z", "params": {"a": 1}}),
    ("/models/toy/predict", {"rows": [ROW] * 3}),
    ("/models/toy/versions/1/predict", ROW),
    ("/models/toy/explain", {"rows": [ROW]}),
    ("/models/toy/feedback", [{"prediction_id": str(uuid4()), "label": 1.0, "outcomes": {"revenue": 1.0}}]),
    ("/models/toy/batch", {"input": "a.csv", "output": "b.csv", "keep": ["id"]}),
    ("/invocations", {"dataframe_split": {"columns": [*ROW], "data": [[*ROW.values()]]}, "params": {"a": 1}}),
    ("/invocations", {"instances": [ROW]}),
    ("/v2/models/toy/infer", {"id": "a", "inputs": TENSORS, "parameters": {"entity": "x"}}),
    ("/v1/models/toy:predict", {"instances": [ROW]}),
    ("/v2/repository/index", {"ready": True}),
]


def _places(body: Any, path: Place = ()) -> Iterator[Place]:
    yield path
    items = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for name, value in items:
        yield from _places(value, (*path, name))


def _with(body: Any, path: Place, value: Any) -> Any:
    if not path:
        return value
    items = body.items() if isinstance(body, dict) else enumerate(body)
    made = {name: _with(old, path[1:], value) if name == path[0] else old for name, old in items}
    return made if isinstance(body, dict) else [*made.values()]


def _text(body: Any, path: Place, value: Any) -> bytes:
    if value is BEYOND:
        return json.dumps(_with(body, path, "beyond")).replace('"beyond"', "1e999").encode()
    return json.dumps(_with(body, path, value)).encode()


@pytest.mark.timeout(300)
def test_an_odd_value_anywhere_is_the_callers_error_or_is_answered(cache: Cache, offsets: dict[int, Path]) -> None:
    """No 5xx, and both lanes say the same."""
    cache.add(1, offsets[1])
    head = {"authorization": f"Bearer {cache.key({'predict', 'feedback', 'read'})}", "content-type": "application/json"}
    cache.deploy(1)

    async def scenario() -> None:
        statuses, wrong = Counter[int](), list[tuple[Any, ...]]()
        async with lanes(cache) as both, httpx.AsyncClient(headers=head, timeout=60) as client:
            for route, body in BODIES:
                for place in _places(body):
                    for value in ODD:
                        text = _text(body, place, value)
                        fast, slow = [
                            (await client.post(f"http://127.0.0.1:{port}{route}", content=text)).status_code
                            for port in (both.fast, both.slow)
                        ]
                        statuses[fast] += 1
                        if fast != slow or fast >= 500:
                            wrong.append((route, place, str(value)[:9], fast, slow))
        print(dict(statuses))
        assert wrong == []
        assert min(statuses[status] for status in (200, 400, 422)) > 100

    run(scenario)
