"""What the dashboard shows: rows of panels as values, whose queries are built from the metric catalogue."""

from __future__ import annotations

from dataclasses import dataclass

from monitoring.alerting import catalogue as c

__all__ = ["Panel", "Query", "Row", "rows"]

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


def _gauge(metric: c.Metric, legend: str, where: str = "") -> Query:
    matchers = ",".join(part for part in (_MODEL if "model" in metric.labels else "", where) if part)
    return Query(f"{metric.name}{{{matchers}}}" if matchers else metric.name, legend)


def _grown(metric: c.Metric, by: str) -> Query:
    legend = " ".join("{{" + label.strip() + "}}" for label in by.split(","))
    selector = f"{{{_MODEL}}}" if "model" in metric.labels else ""
    return Query(f"sum by ({by}) (increase({metric.name}{selector}[$__range]))", legend)


def rows() -> tuple[Row, ...]:
    """Every row, in the order an operator asks: what is wrong, is it up, is it right, what is being done."""
    bad = f'sum by (model) (rate({c.REQUESTS.name}{{{_MODEL},code=~"5.."}}[$__rate_interval]))'
    every = f"sum by (model) (rate({c.REQUESTS.name}{{{_MODEL}}}[$__rate_interval]))"
    states, stages = tuple(c.STATES.items()), tuple(c.STAGES.items())
    hits = f'sum by (model) (rate({c.CACHE.name}{{{_MODEL},result="hit"}}[$__rate_interval]))'
    looked = f"sum by (model) (rate({c.CACHE.name}{{{_MODEL}}}[$__rate_interval]))"
    faults = f'sum(increase({c.REQUESTS.name}{{arm!="shadow",code=~"5.."}}[1h])) or vector(0)'
    fires = 'alertname=~"Perene.+",alertname!="PereneWatchdog",alertstate="firing"'
    return (
        Row("Now", (
            Panel("Alerts that fire",
                  (Query(f"max by (severity, alertname, model) (ALERTS{{{fires}}})",
                         "{{severity}} {{alertname}} {{model}}"),),
                  "none", "table", text="Each has a page in docs/runbooks: what it means, how to confirm, what to do."),
            Panel("Verdicts",
                  (_gauge(c.DATA_QUALITY_STATE, "{{model}} data"), _gauge(c.DRIFT_STATE, "{{model}} drift"),
                   _gauge(c.ESTIMATED_STATE, "{{model}} estimated"), _gauge(c.PERFORMANCE_STATE, "{{model}} realised")),
                  "short", "stat", values=states, text="`perene status MODEL` says why, and what to do."),
            Panel("Faults in the last hour",
                  (Query(f'({faults}) / sum(increase({c.REQUESTS.name}{{arm!="shadow"}}[1h]))', "of all requests"),),
                  "percentunit", "stat", text="The error budget is 0.1 %: 1.44 % spends a month's in two days."),
        )),
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
            Panel("Since the last upkeep",
                  (Query(f"time() - (max({c.LAKE_UPKEEP_LAST_SUCCESS.name}) > 0)", "lake"),), "s"),
        )),
        Row("Jobs", (
            Panel("Jobs", (Query(f"sum by (kind, state) ({c.JOBS.name})", "{{kind}} {{state}}"),)),
            Panel("Jobs that ended", (_grown(c.JOBS_ENDED, "kind, state"),), "short", "bargauge"),
            Panel("Callbacks", (_rate(c.CALLBACKS, "result", ""),), "cps"),
        )),
        Row("Data quality", (
            Panel("Data quality", (_gauge(c.DATA_QUALITY_STATE, "{{model}}"),),
                  "short", "state-timeline", values=states, text="Broken: retraining is blocked while it lasts."),
            Panel("Nulls", (_gauge(c.FEATURE_NULL, "{{model}} {{feature}}"),), "percentunit"),
            Panel("Unseen categories", (_gauge(c.FEATURE_UNSEEN, "{{model}} {{feature}}"),), "percentunit"),
            Panel("Rows in the open window", (_gauge(c.WINDOW_ROWS, "{{model}}"),)),
            Panel("Since the last look at the events",
                  (Query(f"time() - {c.MONITOR_LAST_SUCCESS.name}{{{_MODEL}}}", "{{model}}"),), "s"),
            Panel("Age of the reference", (_gauge(c.REFERENCE_AGE, "{{model}}"),), "s"),
        )),
        Row("Drift", (
            Panel("Drift", (_gauge(c.DRIFT_STATE, "{{model}}"),), "short", "state-timeline", values=states,
                  text="Alone it says nothing about quality: it never pages and never retrains."),
            Panel("Cause of drift",
                  (Query(f"topk(10, {c.DRIFT_CAUSE.name}{{{_MODEL}}})", "{{model}} {{feature}}"),), "short", "bargauge",
                  text="Columns that a confirmed drift rests on: how far they moved, times how much the model heeds"
                       " them. Empty while nothing is confirmed."),
            Panel("Drift by feature",
                  (Query(f"topk(10, max by (model, feature) ({c.DRIFT_PSI.name}{{{_MODEL}}}))",
                         "{{model}} {{feature}}"),
                   _gauge(c.DRIFT_THRESHOLD, "{{model}} ignored below")),
                  text="PSI minus what it would be without drift."),
            Panel("Features flagged", (_gauge(c.DRIFT_FLAGGED, "{{model}}"),)),
            Panel("Reports", (_grown(c.REPORTS, "kind, result"),), "short", "bargauge",
                  text="On findings, days and weeks, by `perene drift report` too; in HOME/reports and in MLflow."),
        )),
        Row("Quality", (
            Panel("Quality: verdicts",
                  (_gauge(c.PERFORMANCE_STATE, "{{model}} realised"), _gauge(c.ESTIMATED_STATE, "{{model}} estimated")),
                  "short", "state-timeline", values=states,
                  text="Realised: labels prove it. Estimated: a warning, never proof."),
            Panel("Quality, realised and reference",
                  (_gauge(c.PERFORMANCE_REALIZED, "{{model}} {{metric}} realised", 'metric!="loss"'),
                   _gauge(c.PERFORMANCE_REFERENCE, "{{model}} {{metric}} reference", 'metric!="loss"'))),
            Panel("Loss: realised, estimated, limit",
                  (_gauge(c.PERFORMANCE_REALIZED, "{{model}} realised", 'metric="loss"'),
                   _gauge(c.PERFORMANCE_ESTIMATED, "{{model}} estimated", 'metric="loss"'),
                   _gauge(c.PERFORMANCE_ESTIMATED_LOWER, "{{model}} estimated, lower", 'metric="loss"'),
                   _gauge(c.PERFORMANCE_ESTIMATED_UPPER, "{{model}} estimated, upper", 'metric="loss"'),
                   _gauge(c.PERFORMANCE_LIMIT, "{{model}} limit")),
                  text="Bounded loss, 0 to 1. The limit is the reference's loss and what is tolerated above it."),
            Panel("Estimated quality",
                  (_gauge(c.PERFORMANCE_ESTIMATED, "{{model}} {{metric}}", 'metric!="loss"'),),
                  text="Of models that classify."),
            Panel("Evidence of growing loss", (_gauge(c.PERFORMANCE_EVALUE, "{{model}}"),)),
        )),
        Row("Labels", (
            Panel("Labels that came", (_rate(c.LABELS_RECEIVED, "model"),), "cps"),
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
            Panel("Gates tested", (_grown(c.GATE_SELF_TESTS, "model, result"), _gauge(c.GATE_BLIND, "{{model}} blind")),
                  "short", "bargauge", text="Once a day, on planted challengers; a blind gate pages."),
            Panel("Duration of a run", (_quantile(c.RETRAIN_DURATION, 0.5, "model"),), "s"),
            Panel("Leaders", (Query(f"sum({c.SCHEDULER_IS_LEADER.name})", "leaders"),), "short", "stat"),
            Panel("Runs due and held",
                  (_gauge(c.RETRAIN_OVERDUE, "{{model}} due since"),), "s",
                  text="Held by brakes: too few labels, broken data, a pause, another run."),
            Panel("Brakes", (_gauge(c.RETRAIN_HELD, "{{model}} {{brake}}"),), "short", "bargauge",
                  text="1 for the brake that holds a run which something asks for."),
            Panel("Breaker", (_gauge(c.RETRAIN_BREAKER, "{{model}}"),), "short", "stat",
                  values=(("closed", 0), ("open", 1)), text="Open after three broken runs: none begins any more."),
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
            Panel("Trial: guardrails", (_gauge(c.EXPERIMENT_GUARDRAIL, "{{model}} {{guardrail}}"),),
                  text="At 100 the candidate is taken out."),
            Panel("Trial: labels needed", (_gauge(c.EXPERIMENT_NEEDED, "{{model}}"),),
                  text="By the smaller arm, at the effect seen so far; nothing where none can be foreseen."),
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
