"""The worked examples of external training sign as Perene does; that they are Python is checked with all documents."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from registry.webhook import SIGNATURE, signature, verified

PAGE = Path(__file__).parents[2] / "docs/how-to/external-training.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_bridge_checks_our_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own function and ours make the same of a body and a time."""
    monkeypatch.setenv("PERENE_HOOK_SECRET", "both know it")
    names: dict[str, Any] = {}
    exec(compile(BLOCKS[0], "bridge.py", "exec"), names)
    assert names["signed"](b'{"run": 1}', 1_000) == signature("both know it", b'{"run": 1}', 1_000)


def test_the_dag_s_answer_is_signed_for_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function that answers, taken out of the DAG: Airflow is not installed here."""
    monkeypatch.setenv("PERENE_HOOK_SECRET", "both know it")
    (dag,) = [block for block in BLOCKS if "airflow.sdk" in block]
    tree = ast.parse(dag)
    (found,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "answer"]
    sent: list[tuple[str, bytes, dict[str, str]]] = []

    class Httpx:
        """Takes what would be sent."""

        @staticmethod
        def post(url: str, *, content: bytes, headers: dict[str, str], timeout: float) -> Httpx:
            assert timeout > 0
            sent.append((url, content, headers))
            return Httpx()

        def raise_for_status(self) -> None:
            """It was taken."""

    import hashlib
    import hmac
    import json
    import os
    import time

    names: dict[str, Any] = {
        "hashlib": hashlib, "hmac": hmac, "json": json, "os": os, "time": time, "httpx": Httpx,
    }  # fmt: skip
    exec(compile(ast.Module([found], []), "dag.py", "exec"), names)
    names["answer"]({"callback": "https://perene/hooks/retrain/r"}, {"version": 7})
    url, body, headers = sent[0]
    assert (url, body) == ("https://perene/hooks/retrain/r", b'{"version": 7}')
    verified("both know it", body, headers[SIGNATURE], time.time())
