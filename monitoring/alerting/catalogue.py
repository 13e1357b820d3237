"""Every metric the platform emits, as values: the one source for collectors, alert rules, dashboards and docs.

Names follow Prometheus: base units (seconds, bytes, ratios from 0 to 1), `_total` on counters. Every label is
bounded: models and versions by the ledger, the rest by the vocabularies below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "perene_"

Kind = Literal["counter", "gauge", "histogram"]
Room = Literal["serving", "monitoring", "retrain"]
Exporter = Literal["serve", "worker"]

# Seconds. From 0.5 ms, because a small model answers in about one; 10 s is past every deadline we set.
LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LOAD_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
RETRAIN_BUCKETS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)

# Values of the gauges `drift_state` and `data_quality_state`; the words are those of findings.
STATES: dict[str, int] = {"ok": 0, "watch": 1, "confirmed": 2, "insufficient": 3, "broken": 4}
# Values of the gauge `experiment_stage`; 0 where no trial is running.
STAGES: dict[str, int] = {"none": 0, "shadow": 1, "canary": 2, "ab": 3, "watch": 4}


@dataclass(frozen=True)
class Metric:
    """One metric family.

    `starts` lists label values whose series exist, at 0, from the start of the process: `increase()` cannot see
    the first count of a series that was not there before.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    room: Room = "serving"
    buckets: tuple[float, ...] = ()
    starts: tuple[tuple[str, ...], ...] = ()
    across: Literal["sum", "max"] = "sum"
    """A gauge of several workers that answer on one port; their counters and histograms are always summed."""

    @property
    def attribute(self) -> str:
        """Name of the collector on `ServeMetrics` or `WorkerMetrics`."""
        return self.name.removeprefix(PREFIX)

    @property
    def series(self) -> tuple[str, ...]:
        """Names that PromQL may ask for."""
        if self.kind == "histogram":
            return tuple(self.name + suffix for suffix in ("_bucket", "_sum", "_count"))
        return (self.name,)


def _serving(
    name: str, kind: Kind, text: str, labels: tuple[str, ...] = (), unit: str = "",
    buckets: tuple[float, ...] = (), starts: tuple[tuple[str, ...], ...] = (),
    across: Literal["sum", "max"] = "sum",
) -> Metric:  # fmt: skip
    return Metric(PREFIX + name, kind, text, labels, unit, "serving", buckets, starts, across)


def _watching(name: str, kind: Kind, text: str, labels: tuple[str, ...] = ("model",), unit: str = "") -> Metric:
    return Metric(PREFIX + name, kind, text, labels, unit, "monitoring")


def _retraining(
    name: str, kind: Kind, text: str, labels: tuple[str, ...] = ("model",), unit: str = "",
    buckets: tuple[float, ...] = (),
) -> Metric:  # fmt: skip
    return Metric(PREFIX + name, kind, text, labels, unit, "retrain", buckets)


# --- serve process ----------------------------------------------------------------------------------------
REQUESTS = _serving(
    "requests_total", "counter", "Answered requests", ("model", "version", "arm", "protocol", "code"))  # fmt: skip
REQUEST_DURATION = _serving(
    "request_duration_seconds", "histogram", "Time from reading the body of an answered prediction to its answer",
    ("model",), "seconds", LATENCY_BUCKETS)  # fmt: skip
STAGE_DURATION = _serving(
    "stage_duration_seconds", "histogram", "Time of an answered prediction in one stage (parse, queue, infer, encode)",
    ("model", "stage"), "seconds", LATENCY_BUCKETS)  # fmt: skip
REQUESTS_IN_PROGRESS = _serving("requests_in_progress", "gauge", "Requests being answered now")
REJECTED = _serving(
    "rejected_total", "counter",
    "Requests refused to protect the others (queue_full, deadline, rate, concurrency, quota), what the champion "
    "answered for a version that failed (candidate_failed, segment_failed), shadows that failed (shadow_failed), and "
    "those that were not asked since callers would have felt it (shadow_dropped)", ("reason",),
    starts=(("candidate_failed",), ("segment_failed",), ("shadow_failed",), ("shadow_dropped",), ("queue_full",),
            ("deadline",), ("rate",), ("concurrency",), ("quota",)))  # fmt: skip
QUEUE_DEPTH = _serving("queue_depth", "gauge", "Requests waiting for the engine", ("model",))
BATCH_ROWS = _serving(
    "batch_rows", "histogram", "Rows of one run of the engine", ("model",),
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 10_000))  # fmt: skip
BATCH_RELEASED = _serving(
    "batch_released_total", "counter", "Runs of the engine by what released them (idle: nothing else waited; full)",
    ("reason",), starts=(("idle",), ("full",)))  # fmt: skip
COLD_STARTS = _serving("cold_starts_total", "counter", "Models loaded because a request asked for them", ("model",))
FALLBACKS = _serving(
    "fallbacks_total", "counter", "Answers or versions that fell back (candidate, segment: to the champion; gpu: to "
    "the CPU; limits: from Redis to this machine's own count)", ("model", "kind"))  # fmt: skip
CACHE = _serving("response_cache_total", "counter", "Answers looked for in the response cache", ("model", "result"))
COERCED = _serving("coerced_total", "counter", "Values that were widened to the type of their column", ("model",))
SESSION_MEMORY = _serving(
    "session_memory_bytes", "gauge", "Memory that the loaded graphs took", ("device",), "bytes")  # fmt: skip
GPU_UTILIZATION = _serving(
    "gpu_utilization_ratio", "gauge", "Share of time in which the GPU worked", ("gpu",), "ratio", across="max"
)
GPU_MEMORY = _serving("gpu_memory_bytes", "gauge", "Memory in use on the GPU", ("gpu",), "bytes", across="max")
GPU_MEMORY_TOTAL = _serving("gpu_memory_total_bytes", "gauge", "Memory of the GPU", ("gpu",), "bytes", across="max")
KEY_REQUESTS = _serving("key_requests_total", "counter", "Answered predictions of one key", ("key",))
KEY_ROWS = _serving("key_rows_total", "counter", "Rows predicted for one key", ("key",))
COST = _serving("cost_seconds_total", "counter", "Time spent on the predictions of one key", ("key",))
WORKERS = _serving("workers", "gauge", "Processes that answer")
WORKER_RESTARTS = _serving("worker_restarts_total", "counter", "Processes that ended and were started again")
ROWS = _serving("rows_total", "counter", "Rows predicted", ("model",))
VALIDATION_ERRORS = _serving("validation_errors_total", "counter", "Bodies refused, by error code", ("kind",))
MODEL_LOADED = _serving(
    "model_loaded_info", "gauge", "1 for each version loaded and warm",
    ("model", "version", "alias", "provider", "digest"), across="max")  # fmt: skip
MODEL_LOAD_DURATION = _serving(
    "model_load_duration_seconds", "histogram", "Time to build and warm one version",
    ("model",), "seconds", LOAD_BUCKETS)  # fmt: skip
MODEL_LOAD_FAILURES = _serving("model_load_failures_total", "counter", "Versions that did not load", ("reason",))
ALIAS_LAG = _serving(
    "alias_lag_seconds", "gauge", "Age of the hand-over while a version in it cannot be served; 0 when all can",
    ("model",), "seconds", across="max")  # fmt: skip
EVENTS = _serving(
    "events_total", "counter", "Events handed to the spool", ("kind",),
    starts=(("prediction",), ("shadow",), ("label",)))  # fmt: skip
EVENTS_LOST = _serving(
    "events_lost_total", "counter", "Events that never reached the spool's disk", ("reason",),
    starts=(("spool_full",), ("backlog",), ("disk",), ("closed",), ("invalid",), ("crash",)))  # fmt: skip
EVENTS_UNJOURNALED = _serving(
    "events_unjournaled_total", "counter",
    "Events that kill -9 could take until their commit: no room in the journal")  # fmt: skip
SPOOL_BYTES = _serving("spool_bytes", "gauge", "Bytes in the spool, not yet in the event lake", (), "bytes")
FEEDBACK = _serving("feedback_total", "counter", "Feedback items by result", ("result",))
SHADOW_DISAGREEMENTS = _serving(
    "shadow_disagreements_total", "counter", "Shadow predictions unlike the served one", ("model",))  # fmt: skip
JOBS = _serving("jobs", "gauge", "Jobs and callbacks that are kept, by state", ("kind", "state"), across="max")
JOB_ATTEMPTS = _serving("job_attempts_total", "counter", "Times that jobs were begun", ("kind",))
JOBS_ENDED = _serving(
    "jobs_ended_total", "counter", "Jobs that ended; those that are dead wait for somebody", ("kind", "state"),
    starts=(("batch", "dead"), ("predict", "dead")))  # fmt: skip
CALLBACKS = _serving(
    "callbacks_total", "counter", "Attempts to bring callbacks, by result", ("result",),
    starts=(("delivered",), ("retried",), ("dead",)))  # fmt: skip
BUILD_INFO = _serving("build_info", "gauge", "1, labelled with the version of perene", ("version",), across="max")

SERVE: tuple[Metric, ...] = (
    REQUESTS, REQUEST_DURATION, STAGE_DURATION, REQUESTS_IN_PROGRESS, REJECTED, ROWS, VALIDATION_ERRORS, MODEL_LOADED,
    MODEL_LOAD_DURATION, MODEL_LOAD_FAILURES, ALIAS_LAG, EVENTS, EVENTS_LOST, EVENTS_UNJOURNALED, SPOOL_BYTES, FEEDBACK,
    SHADOW_DISAGREEMENTS, BUILD_INFO, QUEUE_DEPTH, BATCH_ROWS, BATCH_RELEASED, COLD_STARTS, FALLBACKS, CACHE, COERCED,
    SESSION_MEMORY, GPU_UTILIZATION, GPU_MEMORY, GPU_MEMORY_TOTAL, KEY_REQUESTS, KEY_ROWS, COST, WORKERS,
    WORKER_RESTARTS, JOBS, JOB_ATTEMPTS, JOBS_ENDED, CALLBACKS,
)  # fmt: skip

# --- worker process: monitoring ---------------------------------------------------------------------------
_STATE_WORDS = ", ".join(f"{value} {word}" for word, value in STATES.items())
DRIFT_STATE = _watching("drift_state", "gauge", f"Feature and score drift: {_STATE_WORDS}")
DATA_QUALITY_STATE = _watching("data_quality_state", "gauge", f"Data quality: {_STATE_WORDS}")
DRIFT_PSI = _watching(
    "drift_psi_corrected", "gauge", "PSI minus its expected value without drift; scale is in windows",
    ("model", "feature", "scale"))  # fmt: skip
DRIFT_THRESHOLD = _watching("drift_threshold", "gauge", "Corrected PSI below which a change is ignored")
DRIFT_CAUSE = _watching(
    "drift_cause", "gauge", "PSI times importance of the columns that a confirmed drift rests on: the largest is the "
    "likeliest cause", ("model", "feature"))  # fmt: skip
DRIFT_FLAGGED = _watching("drift_features_flagged", "gauge", "Features flagged in the last window")
FEATURE_NULL = _watching(
    "feature_null_ratio", "gauge", "Share of nulls in the last window", ("model", "feature"), "ratio")  # fmt: skip
FEATURE_UNSEEN = _watching(
    "feature_unseen_ratio", "gauge", "Share of never-seen categories in the last window",
    ("model", "feature"), "ratio")  # fmt: skip
WINDOW_ROWS = _watching("window_rows", "gauge", "Rows in the last window", unit="rows")
PERFORMANCE_REALIZED = _watching(
    "performance_realized", "gauge", "Quality of the champion over its newest labels; `loss` is bounded, 0 to 1",
    ("model", "metric"))  # fmt: skip
PERFORMANCE_REFERENCE = _watching(
    "performance_reference", "gauge", "Quality of the champion on its reference", ("model", "metric"))  # fmt: skip
PERFORMANCE_ESTIMATED = _watching(
    "performance_estimated", "gauge", "Quality of the champion in the last window, told without labels",
    ("model", "metric"))  # fmt: skip
PERFORMANCE_ESTIMATED_LOWER = _watching(
    "performance_estimated_lower", "gauge", "Lower bound of the estimate's 99 % band", ("model", "metric"))  # fmt: skip
PERFORMANCE_ESTIMATED_UPPER = _watching(
    "performance_estimated_upper", "gauge", "Upper bound of the estimate's 99 % band", ("model", "metric"))  # fmt: skip
PERFORMANCE_LIMIT = _watching("performance_loss_limit", "gauge", "Loss of the reference and what is tolerated above it")
PERFORMANCE_STATE = _watching("performance_state", "gauge", f"Quality as labels tell it: {_STATE_WORDS}")
ESTIMATED_STATE = _watching("estimated_state", "gauge", f"Quality as answers tell it without labels: {_STATE_WORDS}")
PERFORMANCE_EVALUE = _watching("performance_evalue", "gauge", "Evidence (mixture e-SR) that the loss has grown")
LABELS_RECEIVED = _watching("labels_received_total", "counter", "Labels read from the event lake")
LABELS_JOIN_RATIO = _watching("labels_join_ratio", "gauge", "Labels that found their prediction", unit="ratio")
LABELS_PARKED = _watching("labels_parked", "gauge", "Labels that wait for their prediction's event")
LABELS_UNMATCHED = _watching(
    "labels_unmatched_total", "counter",
    "Labels given up: no event of their prediction came in time, nor is there one")  # fmt: skip
LABELS_WITHIN = _watching(
    "labels_within_ratio", "gauge", "Share of the champion's predictions that had a label at an age (1h, 1d, 7d, 30d)",
    ("model", "within"), "ratio")  # fmt: skip
LABEL_LAG = _watching(
    "label_lag_seconds", "gauge", "Time from prediction to label by which half (0.5), 95 % (0.95) of the labels came",
    ("model", "quantile"), "seconds")  # fmt: skip
LABEL_LAST = _watching(
    "label_last_timestamp_seconds", "gauge",
    "Unix time at which the newest label was received", unit="seconds")  # fmt: skip
MONITOR_LAST_SUCCESS = _watching(
    "monitor_last_success_timestamp_seconds", "gauge",
    "Unix time of the last completed turn of the worker over the model", unit="seconds")  # fmt: skip
MONITOR_EVENT_TIME = _watching(
    "monitor_event_timestamp_seconds", "gauge",
    "Unix time that the events folded in have reached, on their own clock", unit="seconds")  # fmt: skip
MONITOR_FAILURES = _watching("monitor_failures_total", "counter", "Turns of the worker over the model that failed")
REPORTS = _watching(
    "reports_total", "counter", "Reports on models, by kind (finding, daily, performance) and result",
    ("kind", "result"))  # fmt: skip
LAKE_FILES_MERGED = _watching(
    "lake_files_merged_total", "counter", "Files of the event lake that became part of larger ones")  # fmt: skip
LAKE_EVENTS_EXPIRED = _watching(
    "lake_events_expired_total", "counter", "Events removed from the lake, older than retention_days",
    ("model", "kind"))  # fmt: skip
LAKE_UPKEEP_FAILURES = _watching(
    "lake_upkeep_failures_total", "counter", "Rounds of upkeep of the event lake that failed", ())  # fmt: skip
LAKE_UPKEEP_LAST_SUCCESS = _watching(
    "lake_upkeep_last_success_timestamp_seconds", "gauge", "Unix time of the last completed round of upkeep", (),
    "seconds")  # fmt: skip
REFERENCE_AGE = _watching("reference_age_seconds", "gauge", "Age of the champion's reference data", unit="seconds")

# --- worker process: retraining ---------------------------------------------------------------------------
RETRAIN_RUNS = _retraining(
    "retrain_runs_total", "counter", "Finished retraining runs, by result (done, failed, cancelled)",
    ("model", "trigger", "result"))  # fmt: skip
RETRAIN_DURATION = _retraining(
    "retrain_duration_seconds", "histogram", "Time of one retraining run", ("model",), "seconds",
    RETRAIN_BUCKETS)  # fmt: skip
RETRAIN_BREAKER = _retraining(
    "retrain_breaker_open", "gauge", "1 while runs that broke one after the other keep the next from beginning"
)
RETRAIN_OVERDUE = _retraining(
    "retrain_overdue_seconds", "gauge", "Time on the model's clock since a scheduled run was due; 0 when none waits",
    unit="seconds")  # fmt: skip
RETRAIN_HELD = _retraining(
    "retrain_held", "gauge", "1 for the brake that holds a run which something asks for", ("model", "brake")
)
RETRAIN_NEXT = _retraining(
    "retrain_next_timestamp_seconds", "gauge",
    "When the next run may begin, on the model's clock; 0 when an event decides", unit="seconds")  # fmt: skip
GATE_RESULT = _retraining(
    "gate_result_total", "counter", "Gate verdicts on trained versions", ("model", "gate", "result"))  # fmt: skip
GATE_BLIND = _retraining(
    "gate_blind", "gauge", "1 while the gates pass a planted challenger that they must stop, or stop the champion"
)
GATE_SELF_TESTS = _retraining(
    "gate_self_tests_total", "counter", "Tests of the gates, by result (right, blind, not_told, failed)",
    ("model", "result"))  # fmt: skip
SCHEDULER_IS_LEADER = _retraining("scheduler_is_leader", "gauge", "1 while this worker holds the lease", ())
EXPERIMENT_EVALUE = _retraining(
    "experiment_evalue", "gauge", "Evidence in the running trial, by test", ("model", "test"))  # fmt: skip
EXPERIMENT_EFFECT = _retraining("experiment_effect", "gauge", "Champion loss minus candidate loss: above 0 is better")
EXPERIMENT_EFFECT_LOWER = _retraining("experiment_effect_lower", "gauge", "Lower bound of the effect")
EXPERIMENT_EFFECT_UPPER = _retraining("experiment_effect_upper", "gauge", "Upper bound of the effect")
EXPERIMENT_EXPOSURES = _retraining(
    "experiment_exposures_total", "counter", "Units exposed in A/B, by arm", ("model", "arm"))  # fmt: skip
EXPERIMENT_SRM = _retraining("experiment_srm_evalue", "gauge", "Evidence that the split is not the one asked for")
EXPERIMENT_GUARDRAIL = _retraining(
    "experiment_guardrail_evalue", "gauge", "Evidence that the candidate breaks a guardrail; at 100 it is taken out",
    ("model", "guardrail"))  # fmt: skip
EXPERIMENT_NEEDED = _retraining(
    "experiment_labels_needed", "gauge", "Labels that the smaller arm still needs at the effect seen so far, if known"
)
EXPERIMENT_STAGE = _retraining(
    "experiment_stage", "gauge", "Stage of the trial: " + ", ".join(f"{v} {k}" for k, v in STAGES.items())
)  # fmt: skip
PROMOTIONS = _retraining(
    "promotions_total",
    "counter",
    "Decided trials, by result (promoted, rejected, rolled_back, inconclusive, aborted)",
    ("model", "result"),
)
ROLLBACKS = _retraining(
    "rollbacks_total",
    "counter",
    "Versions taken back: by hand (manual), or by the worker because of what they did (harm, latency and others)",
    ("model", "reason"),
)
CHAMPION_VERSION = _retraining("champion_version", "gauge", "Version the ledger names champion")

WORKER: tuple[Metric, ...] = (
    DRIFT_STATE, DATA_QUALITY_STATE, DRIFT_PSI, DRIFT_THRESHOLD, DRIFT_CAUSE, DRIFT_FLAGGED,
    FEATURE_NULL, FEATURE_UNSEEN, WINDOW_ROWS,
    PERFORMANCE_REALIZED, PERFORMANCE_REFERENCE, PERFORMANCE_ESTIMATED, PERFORMANCE_ESTIMATED_LOWER,
    PERFORMANCE_ESTIMATED_UPPER, PERFORMANCE_LIMIT, PERFORMANCE_STATE, ESTIMATED_STATE, PERFORMANCE_EVALUE,
    LABELS_RECEIVED, LABELS_JOIN_RATIO,
    LABELS_PARKED, LABELS_UNMATCHED, LABELS_WITHIN, LABEL_LAG, LABEL_LAST,
    MONITOR_LAST_SUCCESS, MONITOR_EVENT_TIME, MONITOR_FAILURES, REPORTS, LAKE_FILES_MERGED, LAKE_EVENTS_EXPIRED,
    LAKE_UPKEEP_FAILURES, LAKE_UPKEEP_LAST_SUCCESS, REFERENCE_AGE, RETRAIN_RUNS, RETRAIN_DURATION,
    RETRAIN_BREAKER, RETRAIN_OVERDUE, RETRAIN_HELD, RETRAIN_NEXT, GATE_RESULT, GATE_BLIND, GATE_SELF_TESTS,
    SCHEDULER_IS_LEADER, EXPERIMENT_EVALUE, EXPERIMENT_EFFECT, EXPERIMENT_EFFECT_LOWER, EXPERIMENT_EFFECT_UPPER,
    EXPERIMENT_EXPOSURES, EXPERIMENT_SRM, EXPERIMENT_GUARDRAIL, EXPERIMENT_NEEDED, EXPERIMENT_STAGE, PROMOTIONS,
    ROLLBACKS, CHAMPION_VERSION,
)  # fmt: skip

CATALOGUE: tuple[Metric, ...] = SERVE + WORKER
