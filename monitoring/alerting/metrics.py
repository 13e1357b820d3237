"""Collectors of the two processes, made from the catalogue; the registry is an argument, so tests share nothing."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from monitoring.alerting import catalogue as c
from monitoring.alerting.catalogue import CATALOGUE, SERVE, WORKER, Metric

__all__ = ["CATALOGUE", "SERVE", "WORKER", "Metric", "ServeMetrics", "WorkerMetrics"]

# The series that alerts watch, started at 0 for each model as soon as a worker knows the model.
_RETRAIN_TRIGGERS = ("schedule", "performance", "manual", "freshness", "alert", "volume", "estimated")
_RETRAIN_RESULTS = ("done", "failed", "cancelled")
_PROMOTION_RESULTS = ("promoted", "rejected", "rolled_back", "inconclusive", "aborted")
_ROLLBACK_REASONS = (
    *("manual", "automatic", "harm", "alert"),
    *("error_rate", "latency", "prediction_rate", "outcome"),
)


def _counter(metric: Metric, registry: CollectorRegistry) -> Counter:
    counter = Counter(metric.name, metric.help, metric.labels, registry=registry)
    for values in metric.starts:
        counter.labels(*values)
    return counter


def _gauge(metric: Metric, registry: CollectorRegistry) -> Gauge:
    return Gauge(metric.name, metric.help, metric.labels, registry=registry)


def _histogram(metric: Metric, registry: CollectorRegistry) -> Histogram:
    return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)


class ServeMetrics:
    """What one serve process exports on its public port."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests_total = _counter(c.REQUESTS, registry)
        self.request_duration_seconds = _histogram(c.REQUEST_DURATION, registry)
        self.stage_duration_seconds = _histogram(c.STAGE_DURATION, registry)
        self.requests_in_progress = _gauge(c.REQUESTS_IN_PROGRESS, registry)
        self.rejected_total = _counter(c.REJECTED, registry)
        self.rows_total = _counter(c.ROWS, registry)
        self.validation_errors_total = _counter(c.VALIDATION_ERRORS, registry)
        self.model_loaded_info = _gauge(c.MODEL_LOADED, registry)
        self.model_load_duration_seconds = _histogram(c.MODEL_LOAD_DURATION, registry)
        self.model_load_failures_total = _counter(c.MODEL_LOAD_FAILURES, registry)
        self.alias_lag_seconds = _gauge(c.ALIAS_LAG, registry)
        self.events_total = _counter(c.EVENTS, registry)
        self.events_lost_total = _counter(c.EVENTS_LOST, registry)
        self.events_unjournaled_total = _counter(c.EVENTS_UNJOURNALED, registry)
        self.spool_bytes = _gauge(c.SPOOL_BYTES, registry)
        self.feedback_total = _counter(c.FEEDBACK, registry)
        self.shadow_disagreements_total = _counter(c.SHADOW_DISAGREEMENTS, registry)
        self.build_info = _gauge(c.BUILD_INFO, registry)
        self.queue_depth = _gauge(c.QUEUE_DEPTH, registry)
        self.batch_rows = _histogram(c.BATCH_ROWS, registry)
        self.batch_released_total = _counter(c.BATCH_RELEASED, registry)
        self.cold_starts_total = _counter(c.COLD_STARTS, registry)
        self.fallbacks_total = _counter(c.FALLBACKS, registry)
        self.response_cache_total = _counter(c.CACHE, registry)
        self.coerced_total = _counter(c.COERCED, registry)
        self.session_memory_bytes = _gauge(c.SESSION_MEMORY, registry)
        self.gpu_utilization_ratio = _gauge(c.GPU_UTILIZATION, registry)
        self.gpu_memory_bytes = _gauge(c.GPU_MEMORY, registry)
        self.gpu_memory_total_bytes = _gauge(c.GPU_MEMORY_TOTAL, registry)
        self.key_requests_total = _counter(c.KEY_REQUESTS, registry)
        self.key_rows_total = _counter(c.KEY_ROWS, registry)
        self.cost_seconds_total = _counter(c.COST, registry)
        self.workers = _gauge(c.WORKERS, registry)
        self.worker_restarts_total = _counter(c.WORKER_RESTARTS, registry)
        self.jobs = _gauge(c.JOBS, registry)
        self.job_attempts_total = _counter(c.JOB_ATTEMPTS, registry)
        self.jobs_ended_total = _counter(c.JOBS_ENDED, registry)
        self.callbacks_total = _counter(c.CALLBACKS, registry)


class WorkerMetrics:
    """What one worker exports: monitoring, retraining and trials."""

    def __init__(self, registry: CollectorRegistry) -> None:  # noqa: PLR0915 - one statement for each metric
        self.registry = registry
        self.drift_state = _gauge(c.DRIFT_STATE, registry)
        self.data_quality_state = _gauge(c.DATA_QUALITY_STATE, registry)
        self.drift_psi_corrected = _gauge(c.DRIFT_PSI, registry)
        self.drift_threshold = _gauge(c.DRIFT_THRESHOLD, registry)
        self.drift_cause = _gauge(c.DRIFT_CAUSE, registry)
        self.drift_features_flagged = _gauge(c.DRIFT_FLAGGED, registry)
        self.feature_null_ratio = _gauge(c.FEATURE_NULL, registry)
        self.feature_unseen_ratio = _gauge(c.FEATURE_UNSEEN, registry)
        self.window_rows = _gauge(c.WINDOW_ROWS, registry)
        self.performance_realized = _gauge(c.PERFORMANCE_REALIZED, registry)
        self.performance_reference = _gauge(c.PERFORMANCE_REFERENCE, registry)
        self.performance_estimated = _gauge(c.PERFORMANCE_ESTIMATED, registry)
        self.performance_estimated_lower = _gauge(c.PERFORMANCE_ESTIMATED_LOWER, registry)
        self.performance_estimated_upper = _gauge(c.PERFORMANCE_ESTIMATED_UPPER, registry)
        self.performance_loss_limit = _gauge(c.PERFORMANCE_LIMIT, registry)
        self.performance_state = _gauge(c.PERFORMANCE_STATE, registry)
        self.estimated_state = _gauge(c.ESTIMATED_STATE, registry)
        self.performance_evalue = _gauge(c.PERFORMANCE_EVALUE, registry)
        self.labels_received_total = _counter(c.LABELS_RECEIVED, registry)
        self.labels_join_ratio = _gauge(c.LABELS_JOIN_RATIO, registry)
        self.labels_parked = _gauge(c.LABELS_PARKED, registry)
        self.labels_unmatched_total = _counter(c.LABELS_UNMATCHED, registry)
        self.labels_within_ratio = _gauge(c.LABELS_WITHIN, registry)
        self.label_lag_seconds = _gauge(c.LABEL_LAG, registry)
        self.label_last_timestamp_seconds = _gauge(c.LABEL_LAST, registry)
        self.monitor_last_success_timestamp_seconds = _gauge(c.MONITOR_LAST_SUCCESS, registry)
        self.monitor_event_timestamp_seconds = _gauge(c.MONITOR_EVENT_TIME, registry)
        self.monitor_failures_total = _counter(c.MONITOR_FAILURES, registry)
        self.reports_total = _counter(c.REPORTS, registry)
        self.lake_files_merged_total = _counter(c.LAKE_FILES_MERGED, registry)
        self.lake_events_expired_total = _counter(c.LAKE_EVENTS_EXPIRED, registry)
        self.lake_upkeep_failures_total = _counter(c.LAKE_UPKEEP_FAILURES, registry)
        self.lake_upkeep_last_success_timestamp_seconds = _gauge(c.LAKE_UPKEEP_LAST_SUCCESS, registry)
        self.reference_age_seconds = _gauge(c.REFERENCE_AGE, registry)
        self.retrain_runs_total = _counter(c.RETRAIN_RUNS, registry)
        self.retrain_duration_seconds = _histogram(c.RETRAIN_DURATION, registry)
        self.retrain_breaker_open = _gauge(c.RETRAIN_BREAKER, registry)
        self.retrain_overdue_seconds = _gauge(c.RETRAIN_OVERDUE, registry)
        self.retrain_held = _gauge(c.RETRAIN_HELD, registry)
        self.retrain_next_timestamp_seconds = _gauge(c.RETRAIN_NEXT, registry)
        self.gate_result_total = _counter(c.GATE_RESULT, registry)
        self.gate_blind = _gauge(c.GATE_BLIND, registry)
        self.gate_self_tests_total = _counter(c.GATE_SELF_TESTS, registry)
        self.scheduler_is_leader = _gauge(c.SCHEDULER_IS_LEADER, registry)
        self.experiment_evalue = _gauge(c.EXPERIMENT_EVALUE, registry)
        self.experiment_effect = _gauge(c.EXPERIMENT_EFFECT, registry)
        self.experiment_effect_lower = _gauge(c.EXPERIMENT_EFFECT_LOWER, registry)
        self.experiment_effect_upper = _gauge(c.EXPERIMENT_EFFECT_UPPER, registry)
        self.experiment_exposures_total = _counter(c.EXPERIMENT_EXPOSURES, registry)
        self.experiment_srm_evalue = _gauge(c.EXPERIMENT_SRM, registry)
        self.experiment_guardrail_evalue = _gauge(c.EXPERIMENT_GUARDRAIL, registry)
        self.experiment_labels_needed = _gauge(c.EXPERIMENT_NEEDED, registry)
        self.experiment_stage = _gauge(c.EXPERIMENT_STAGE, registry)
        self.promotions_total = _counter(c.PROMOTIONS, registry)
        self.rollbacks_total = _counter(c.ROLLBACKS, registry)
        self.champion_version = _gauge(c.CHAMPION_VERSION, registry)

    def start(self, models: Iterable[str]) -> None:
        """Make the counters that alerts watch exist, at 0, for these models; harmless when repeated."""
        for model in models:
            self.monitor_failures_total.labels(model)
            self.labels_received_total.labels(model)
            self.labels_unmatched_total.labels(model)
            for trigger in _RETRAIN_TRIGGERS:
                for result in _RETRAIN_RESULTS:
                    self.retrain_runs_total.labels(model, trigger, result)
            for result in _PROMOTION_RESULTS:
                self.promotions_total.labels(model, result)
            for reason in _ROLLBACK_REASONS:
                self.rollbacks_total.labels(model, reason)
