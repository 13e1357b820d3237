"""Perene itself, and the two limits that are servers."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.peers.target import Target, named, predictions
from bench.serving.subject import ROOT, Subject

PYTHON = Path(sys.executable)
LIMITS = Path("bench/peers/limits")


def perene(subject: Subject, *, workers: int = 1) -> Target:
    """The server as `perene serve` runs it: every add-on on, puller and shipper beside it."""
    return Target(
        "perene",
        "Perene" if workers == 1 else f"Perene, {workers} workers",
        f"/models/{subject.name}/predict",
        PYTHON,
        ("perene", "uvicorn", "onnxruntime-gpu", "onnxruntime"),
        lambda port: [
            *(str(PYTHON), "-m", "serving", "--home", str(subject.home), "--port", str(port)),
            *(("--workers", str(workers)) if workers > 1 else ()),
        ],
        named,
        predictions,
        headers={"Authorization": f"Bearer {subject.key}"},
        peer=False,
    )


def echo() -> Target:
    """A raw ASGI constant on the stack that Perene stands on."""
    return Target(
        "echo",
        "limit: echo of our stack (raw ASGI)",
        "/",
        PYTHON,
        ("uvicorn", "httptools", "uvloop"),
        lambda port: [str(PYTHON), "-m", "bench.peers.limits.echo", "--port", str(port)],
        named,
        predictions,
        constant=True,
        peer=False,
    )


def nginx() -> Target:
    """A constant from nginx."""
    return Target(
        "nginx",
        "limit: nginx, a constant",
        "/",
        PYTHON,
        (),
        _nginx,
        named,
        predictions,
        constant=True,
        peer=False,
    )


def _nginx(port: int) -> list[str]:
    prefix = ROOT / "nginx"
    prefix.mkdir(parents=True, exist_ok=True)
    config = prefix / "nginx.conf"
    config.write_text((LIMITS / "nginx.conf").read_text().replace("PORT", str(port)))
    return ["nginx", "-p", f"{prefix}/", "-c", config.name]
