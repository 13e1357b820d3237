"""What the benchmark needs to know of a server: how to start it, how to ask it, how to read its answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.serving.subject import FOLDER, Row, Subject

MODEL = FOLDER / "model.onnx"


@dataclass(frozen=True)
class Target:
    """One server. `command` gets a free port; `packages` are the ones whose versions are worth a record."""

    name: str
    title: str
    path: str
    python: Path
    packages: tuple[str, ...]
    command: Callable[[int], list[str]]
    body: Callable[[Sequence[Row]], Any]
    answers: Callable[[Any], list[float]]
    env: Callable[[int], Mapping[str, str]] = lambda port: {}
    headers: Mapping[str, str] = field(default_factory=dict)
    prepare: Sequence[str] = ()
    constant: bool = False
    peer: bool = True

    def bodies(self, subject: Subject, rows: int) -> list[bytes]:
        """Requests of so many rows each: every row of the subject once, or all of them in one."""
        groups = [subject.rows[at : at + rows] for at in range(0, len(subject.rows), rows)]
        return [json.dumps(self.body(group), separators=(",", ":")).encode() for group in groups]

    def url(self, port: int) -> str:
        """Where it predicts."""
        return f"http://127.0.0.1:{port}{self.path}"


def named(rows: Sequence[Row]) -> dict[str, Any]:
    """`{"rows": [{feature: value}]}`."""
    return {"rows": list(rows)}


def listed(rows: Sequence[Row]) -> dict[str, Any]:
    """`{"rows": [[value]]}`, the two strings first."""
    return {"rows": [list(row.values()) for row in rows]}


def predictions(answer: Any) -> list[float]:
    """`{"predictions": […]}`."""
    return [float(value) for value in answer["predictions"]]
