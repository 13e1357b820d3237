"""Figures that a server tells of itself: GET /metrics."""

from __future__ import annotations

import re
import urllib.request

from bench.peers.target import Target

_LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


def scrape(target: Target, port: int) -> str:
    """The page."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=dict(target.headers))
    with urllib.request.urlopen(request, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def total(page: str, name: str, **labels: str) -> float | None:
    """The sum of a metric over all label sets that have `labels`; None when the page has none.

    >>> total('a{x="1",y="2"} 3.0', "a", x="1")
    3.0
    """
    wanted = {f'{key}="{value}"' for key, value in labels.items()}
    found = [
        float(match[3])
        for line in page.splitlines()
        if (match := _LINE.match(line)) and match[1] == name and wanted <= set((match[2] or "").split(","))
    ]
    return sum(found) if found else None
