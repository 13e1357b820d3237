"""The dashboard in Grafana's JSON model, made from the rows in `grafana/rows.py`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from grafana.rows import Panel, Row, rows
from monitoring.alerting import catalogue as c

UID = "perene-loop"
TITLE = "Perene: the whole loop"
DATASOURCE_UID = "perene-prometheus"
_DATASOURCE = {"type": "prometheus", "uid": DATASOURCE_UID}
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 24
_COLOURS = {
    "ok": "green",
    "watch": "yellow",
    "confirmed": "red",
    "broken": "dark-red",
    "shadow": "blue",
    "ab": "purple",
    "closed": "green",
    "open": "red",
}
"""Of states and stages; those that say nothing (insufficient, none) are grey."""


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    words = {
        str(value): {"text": word, "index": value, "color": _COLOURS.get(word, "text")} for word, value in panel.values
    }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _DATASOURCE,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": x, "y": y},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "mappings": [{"type": "value", "options": words}] if words else []},
            "overrides": [],
        },
        "options": {},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                # A table shows what is true now; everything else has a history.
                "instant": panel.kind == "table",
                "range": panel.kind != "table",
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _panels(layout: Sequence[Row]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    y = 0
    for row in layout:
        head = {"h": 1, "w": _COLUMNS, "x": 0, "y": y}
        made.append({"id": len(made) + 1, "type": "row", "title": row.title, "collapsed": False, "gridPos": head,
                     "panels": []})  # fmt: skip
        y += 1
        for index, panel in enumerate(row.panels):
            line, place = divmod(index, _COLUMNS // _WIDTH)
            made.append(_panel(panel, len(made) + 1, place * _WIDTH, y + line * _HEIGHT))
        y += -(-len(row.panels) // (_COLUMNS // _WIDTH)) * _HEIGHT
    return made


def build() -> dict[str, Any]:
    """Return the dashboard in Grafana's JSON model (schema 39, Grafana 11)."""
    query = f"label_values({c.CHAMPION_VERSION.name}, model)"
    return {
        "uid": UID,
        "title": TITLE,
        "tags": ["perene"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "model",
                    "label": "Model",
                    "type": "query",
                    "datasource": _DATASOURCE,
                    "query": {"query": query, "refId": "model"},
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                }
            ]
        },
        "annotations": {"list": []},
        "panels": _panels(rows()),
    }


def render() -> str:
    """Return the dashboard file."""
    return json.dumps(build(), indent=1, ensure_ascii=False) + "\n"
