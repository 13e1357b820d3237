"""The dashboard as a value: rows of panels whose queries are built from the metric catalogue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monitoring import catalogue as c

UID = "perene-loop"
TITLE = "Perene: the whole loop"
DATASOURCE_UID = "perene-prometheus"
_DATASOURCE = {"type": "prometheus", "uid": DATASOURCE_UID}
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 24
# The variable's regular expression matches every model when "All" is chosen.
_MODEL = 'model=~"$model"'


@dataclass(frozen=True)
class Query:
    """One PromQL expression and the legend of its series."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel; `kind` and `unit` are Grafana's identifiers."""

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    text: str = ""
    values: tuple[tuple[str, int], ...] = ()  # words shown instead of numbers


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def _rate(metric: c.Metric, by: str, where: str = _MODEL) -> Query:
    legend = " ".join("{{" + label.strip() + "}}" for label in by.split(","))
    selector = f"{{{where}}}" if where else ""
    return Query(f"sum by ({by}) (rate({metric.name}{selector}[$__rate_interval]))", legend)


def _quantile(metric: c.Metric, q: float, by: str) -> Query:
    legend = " ".join("{{" + label.strip() + "}}" for label in by.split(",")) + f" p{round(q * 100)}"
    rate = f"rate({metric.name}_bucket{{{_MODEL}}}[$__rate_interval])"
    return Query(f"histogram_quantile({q}, sum by ({by}, le) ({rate}))", legend)


def _gauge(metric: c.Metric, legend: str) -> Query:
    return Query(f"{metric.name}{{{_MODEL}}}" if "model" in metric.labels else metric.name, legend)


def _grown(metric: c.Metric, by: str) -> Query:
    legend = " ".join("{{" + label.strip() + "}}" for label in by.split(","))
    selector = f"{{{_MODEL}}}" if "model" in metric.labels else ""
    return Query(f"sum by ({by}) (increase({metric.name}{selector}[$__range]))", legend)


def rows() -> tuple[Row, ...]:
    """Every row, in the order an operator asks: is it up, is it right, what is being done."""
    bad = f'sum by (model) (rate({c.REQUESTS.name}{{{_MODEL},code=~"5.."}}[$__rate_interval]))'
    every = f"sum by (model) (rate({c.REQUESTS.name}{{{_MODEL}}}[$__rate_interval]))"
    states, stages = tuple(c.STATES.items()), tuple(c.STAGES.items())
    hits = f'sum by (model) (rate({c.CACHE.name}{{{_MODEL},result="hit"}}[$__rate_interval]))'
    looked = f"sum by (model) (rate({c.CACHE.name}{{{_MODEL}}}[$__rate_interval]))"
    return (
        Row("Traffic and errors", (
            Panel("Requests by model and arm", (_rate(c.REQUESTS, "model, arm"),), "reqps"),
            Panel("Answers by code", (_rate(c.REQUESTS, "code"),), "reqps"),
            Panel("Faults by model", (Query(f"{bad} / {every}", "{{model}}"),), "percentunit"),
            Panel("Rows predicted", (_rate(c.ROWS, "model"),), "rowsps"),
            Panel("Failed candidates and refused bodies",
                  (_rate(c.REJECTED, "reason", 'reason=~".*_failed"'), _rate(c.VALIDATION_ERRORS, "kind", "")),
                  "reqps"),
            Panel("In progress", (Query(f"sum({c.REQUESTS_IN_PROGRESS.name})", "requests"),)),
        )),
        Row("Latency", (
            Panel("Request duration",
                  tuple(_quantile(c.REQUEST_DURATION, q, "model") for q in (0.5, 0.95, 0.99)), "s"),
            Panel("Stages", (_quantile(c.STAGE_DURATION, 0.95, "model, stage"),), "s"),
            Panel("Time behind the ledger", (_gauge(c.ALIAS_LAG, "{{model}}"),), "s"),
        )),
        Row("Capacity", (
            Panel("Waiting for the engine",
                  (Query(f"sum by (model) ({c.QUEUE_DEPTH.name}{{{_MODEL}}})", "{{model}}"),)),
            Panel("Refused requests", (_rate(c.REJECTED, "reason", 'reason!~".*_failed"'),), "reqps",
                  text="queue_full and deadline: more than can be answered in time. The others: limits of keys."),
            Panel("Rows of one run", tuple(_quantile(c.BATCH_ROWS, q, "model") for q in (0.5, 0.95))),
            Panel("Workers and restarts",
                  (Query(f"sum({c.WORKERS.name})", "workers"),
                   Query(f"sum(increase({c.WORKER_RESTARTS.name}[$__rate_interval]))", "restarts"))),
            Panel("Cold starts and fallbacks",
                  (_grown(c.COLD_STARTS, "model"), _grown(c.FALLBACKS, "model, kind")), "short", "bargauge"),
            Panel("Memory of graphs and GPUs",
                  (Query(f"sum by (device) ({c.SESSION_MEMORY.name})", "graphs on {{device}}"),
                   Query(f"sum by (gpu) ({c.GPU_MEMORY.name})", "GPU {{gpu}}"),
                   Query(f"sum by (gpu) ({c.GPU_MEMORY_TOTAL.name})", "GPU {{gpu}} has")), "bytes"),
            Panel("GPUs at work", (_gauge(c.GPU_UTILIZATION, "GPU {{gpu}}"),), "percentunit"),
            Panel("Answers from the cache", (Query(f"{hits} / {looked}", "{{model}}"),), "percentunit"),
            Panel("Rows by key", (_rate(c.KEY_ROWS, "key", ""),), "rowsps"),
            Panel("Cost by key", (_rate(c.COST, "key", ""),), "short",
                  text="Seconds of reading, predicting and writing in each second."),
        )),
        Row("Events", (
            Panel("Events", (_rate(c.EVENTS, "kind", ""), _rate(c.FEEDBACK, "result", "")), "cps"),
            Panel("Events lost", (_grown(c.EVENTS_LOST, "reason"),), "short", "stat"),
            Panel("Spool", (Query(f"sum({c.SPOOL_BYTES.name})", "bytes"),), "bytes"),
            Panel("Upkeep of the lake",
                  (Query(f"sum(increase({c.LAKE_FILES_MERGED.name}[$__rate_interval]))", "files merged"),
                   Query(f"sum(increase({c.LAKE_EVENTS_EXPIRED.name}[$__rate_interval]))", "events expired"),
                   Query(f"sum(increase({c.LAKE_UPKEEP_FAILURES.name}[$__rate_interval]))", "rounds failed"))),
            Panel("Jobs", (Query(f"sum by (kind, state) ({c.JOBS.name})", "{{kind}} {{state}}"),)),
            Panel("Callbacks", (_rate(c.CALLBACKS, "result", ""),), "cps"),
        )),
        Row("Data and drift", (
            Panel("Drift", (_gauge(c.DRIFT_STATE, "{{model}}"),), "short", "state-timeline", values=states),
            Panel("Data quality", (_gauge(c.DATA_QUALITY_STATE, "{{model}}"),),
                  "short", "state-timeline", values=states),
            Panel("Drift by feature",
                  (Query(f"topk(10, max by (model, feature) ({c.DRIFT_PSI.name}{{{_MODEL}}}))",
                         "{{model}} {{feature}}"),),
                  text="PSI minus what it would be without drift; below 0.02 it is ignored."),
            Panel("Nulls", (_gauge(c.FEATURE_NULL, "{{model}} {{feature}}"),), "percentunit"),
            Panel("Unseen categories", (_gauge(c.FEATURE_UNSEEN, "{{model}} {{feature}}"),), "percentunit"),
            Panel("Features flagged", (_gauge(c.DRIFT_FLAGGED, "{{model}}"),)),
        )),
        Row("Quality", (
            Panel("Quality, realised and reference",
                  (_gauge(c.PERFORMANCE_REALIZED, "{{model}} {{metric}} realised"),
                   _gauge(c.PERFORMANCE_REFERENCE, "{{model}} {{metric}} reference"))),
            Panel("Evidence of growing loss", (_gauge(c.PERFORMANCE_EVALUE, "{{model}}"),)),
            Panel("Labels that found their prediction", (_gauge(c.LABELS_JOIN_RATIO, "{{model}}"),), "percentunit"),
            Panel("Labels and their delay",
                  (_gauge(c.LABEL_LAG, "{{model}} usual, {{quantile}}"),
                   Query(f"time() - {c.LABEL_LAST.name}{{{_MODEL}}}", "{{model}} since the last")), "s"),
            Panel("Predictions with a label, by age",
                  (_gauge(c.LABELS_WITHIN, "{{model}} {{within}}"),), "percentunit"),
            Panel("Labels without a prediction",
                  (_gauge(c.LABELS_PARKED, "{{model}} waiting"), _grown(c.LABELS_UNMATCHED, "model"))),
        )),
        Row("Retraining", (
            Panel("Runs", (_grown(c.RETRAIN_RUNS, "model, trigger, result"),), "short", "bargauge"),
            Panel("Gates", (_grown(c.GATE_RESULT, "model, gate, result"),), "short", "bargauge"),
            Panel("Duration of a run", (_quantile(c.RETRAIN_DURATION, 0.5, "model"),), "s"),
            Panel("Leaders", (Query(f"sum({c.SCHEDULER_IS_LEADER.name})", "leaders"),), "short", "stat"),
            Panel("Since the last look at the events",
                  (Query(f"time() - {c.MONITOR_LAST_SUCCESS.name}{{{_MODEL}}}", "{{model}}"),), "s"),
        )),
        Row("Trial", (
            Panel("Trial: stage", (_gauge(c.EXPERIMENT_STAGE, "{{model}}"),), "short", "state-timeline", values=stages),
            Panel("Trial: effect and bounds",
                  (_gauge(c.EXPERIMENT_EFFECT, "{{model}}"), _gauge(c.EXPERIMENT_EFFECT_LOWER, "{{model}} lower"),
                   _gauge(c.EXPERIMENT_EFFECT_UPPER, "{{model}} upper")),
                  text="Champion loss minus candidate loss: above 0 the candidate is better."),
            Panel("Trial: evidence", (_gauge(c.EXPERIMENT_EVALUE, "{{model}} {{test}}"),)),
            Panel("Trial: exposures", (_gauge(c.EXPERIMENT_EXPOSURES, "{{model}} {{arm}}"),)),
            Panel("Trial: split is wrong", (_gauge(c.EXPERIMENT_SRM, "{{model}}"),)),
            Panel("Shadow disagreements", (_rate(c.SHADOW_DISAGREEMENTS, "model"),), "cps"),
        )),
        Row("Ledger", (
            Panel("Champion", (_gauge(c.CHAMPION_VERSION, "{{model}}"),), "none", "stat"),
            Panel("Versions loaded",
                  (_gauge(c.MODEL_LOADED, "{{model}} {{version}} {{alias}} {{provider}}"),), "none", "table"),
            Panel("Ended trials", (_grown(c.PROMOTIONS, "model, result"),), "short", "bargauge"),
            Panel("Rollbacks", (_grown(c.ROLLBACKS, "model, reason"),), "short", "stat"),
        )),
    )  # fmt: skip


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    words = {str(value): {"text": word, "index": value} for word, value in panel.values}
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
