"""Every alert as a value. Expressions are built from the catalogue, so a renamed metric renames its alert.

Two workers may export gauges, and only the leader's are fresh: a worker that no longer leads clears its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from monitoring.alerting import catalogue as c
from monitoring.alerting.alert_limits import Limits, Pace

__all__ = ["Rule", "Severity", "rules"]

Severity = Literal["page", "ticket", "info"]


@dataclass(frozen=True)
class Rule:
    """One alert; `wait` is how long the expression must hold, in Prometheus' notation."""

    name: str
    severity: Severity
    expr: str
    wait: str
    summary: str

    @property
    def page(self) -> str:
        """File name of the runbook: PereneNoLeader is no-leader.md."""
        stem = self.name.removeprefix("Perene")
        return "".join("-" + ch.lower() if ch.isupper() else ch for ch in stem).lstrip("-") + ".md"


def rules(limits: Limits | None = None, pace: Pace | None = None) -> tuple[Rule, ...]:
    """Every alert, most urgent first.

    Args:
        limits: what is too much.
        pace: how fast time goes.
    """
    asked, at = limits or Limits(), pace or Pace()
    found = (
        *_budget(asked, at),
        *_champions(asked, at),
        *_leaders(at),
        *_answers(asked, at),
        *_machines(asked, at),
        *_events(asked, at),
        *_data(asked, at),
        *_loop(asked, at),
        Rule("PereneWatchdog", "info", "vector(1)", "0s", "Always fires: silence means that alerting is broken"),
    )
    urgency = ("page", "ticket", "info")
    return tuple(sorted(found, key=lambda rule: urgency.index(rule.severity)))


# A shadow's answers reach nobody, so its faults spend no budget.
_ASKED = f'{c.REQUESTS.name}{{arm!="shadow"}}'
_FAULTS = f'{c.REQUESTS.name}{{arm!="shadow",code=~"5.."}}'
_CHAMPIONS = f"max by (model) ({c.CHAMPION_VERSION.name}) > 0"


def _number(value: float) -> str:
    return f"{value:.10g}"


def _grown(counter: str, by: str, window: str) -> str:
    """Growth of a counter; also one whose first sample is above 0, which `increase()` cannot see."""
    fresh = f"sum by ({by}) ({counter} unless {counter} offset {window}) > 0"
    return f"sum by ({by}) (increase({counter}[{window}])) > 0 or {fresh}"


def _budget(asked: Limits, at: Pace) -> tuple[Rule, ...]:
    """Burn of the error budget of all models together, in two windows each: it began, and it goes on."""

    def ratio(window: str) -> str:
        return f"(sum(rate({_FAULTS}[{window}])) or vector(0)) / sum(rate({_ASKED}[{window}]))"

    def burn(factor: float, long: str, short: str) -> str:
        limit = _number(factor * asked.slo_error_budget)
        enough = f"sum(increase({_ASKED}[{at.window(long)}])) > {_number(asked.slo_min_requests)}"
        return f"({ratio(at.window(long))} > {limit}) and ({ratio(at.window(short))} > {limit}) and ({enough})"

    return (
        Rule("PereneErrorBudgetBurnFast", "page", burn(14.4, "1h", "5m"), at.wait("2m"),
             "Faults spend the month's error budget in two days"),
        Rule("PereneErrorBudgetBurnSlow", "page", burn(6, "6h", "30m"), at.wait("15m"),
             "Faults spend the month's error budget in five days"),
        Rule("PereneErrorBudgetTrickle", "ticket", burn(1, "3d", "6h"), at.wait("1h"),
             "Faults spend the error budget faster than it comes in"),
    )  # fmt: skip


def _champions(asked: Limits, at: Pace) -> tuple[Rule, ...]:
    """Whether what the ledger names is what answers."""
    champion = f'{c.MODEL_LOADED.name}{{alias="champion"}} == 1'
    skew = f"count by (model) (count by (model, version) ({champion})) > 1"
    lag = f"max by (model) ({c.ALIAS_LAG.name}) > {_number(asked.alias_lag_s)}"
    return (
        Rule("PereneNoHealthyChampion", "page", f"({_CHAMPIONS}) unless on (model) {champion}", at.wait("2m"),
             "No serve process has the champion of {{ $labels.model }} loaded and warm"),
        Rule("PereneRollbackExecuted", "page", _grown(c.ROLLBACKS.name, "model, reason", at.window("15m")),
             at.wait("0m"), "{{ $labels.model }} was rolled back ({{ $labels.reason }})"),
        Rule("PereneAliasLag", "ticket", lag, at.wait("1m"),
             "{{ $labels.model }} has not followed the ledger for {{ $value | humanizeDuration }}"),
        Rule("PereneVersionSkew", "ticket", skew, at.wait("5m"),
             "Servers answer {{ $labels.model }} with {{ $value }} different versions as champion"),
    )  # fmt: skip


def _leaders(at: Pace) -> tuple[Rule, ...]:
    leaders = f"sum({c.SCHEDULER_IS_LEADER.name})"
    return (
        Rule("PereneNoLeader", "page", f"({leaders} or vector(0)) < 1", at.wait("2m"),
             "No worker leads: nothing is monitored, retrained or promoted"),
        Rule("PereneTwoLeaders", "page", f"{leaders} > 1", at.wait("1m"),
             "{{ $value }} workers believe that they lead"),
    )  # fmt: skip


def _answers(asked: Limits, at: Pace) -> tuple[Rule, ...]:
    """How requests are answered: by model, by server, by key."""
    five, least = at.window("5m"), _number(asked.slo_min_requests)
    duration = c.REQUEST_DURATION.name
    late = f'{c.REJECTED.name}{{reason=~"queue_full|deadline"}}'
    errors = (
        f"sum by (model) (rate({_FAULTS}[{five}])) / sum by (model) (rate({_ASKED}[{five}]))"
        f" > {_number(asked.error_ratio)} and sum by (model) (increase({_ASKED}[{five}])) > {least}"
    )
    p95 = (
        f"histogram_quantile(0.95, sum by (model, le) (rate({duration}_bucket[{five}])))"
        f" > {_number(asked.latency_p95_s)}"
        f" and on (model) sum by (model) (increase({duration}_count[{five}])) > {least}"
    )
    overload = (
        f"sum by (instance) (rate({late}[{five}])) / sum by (instance) (rate({_ASKED}[{five}]))"
        f" > {_number(asked.overload_ratio)} and sum by (instance) (increase({_ASKED}[{five}])) > {least}"
    )
    cost = f"sum by (key) (increase({c.COST.name}[{at.window('1d')}])) > {_number(asked.cost_seconds_per_day)}"
    return (
        Rule("PereneErrorRateHigh", "ticket", errors, at.wait("10m"),
             "{{ $value | humanizePercentage }} of requests to {{ $labels.model }} fail through our fault"),
        Rule("PereneLatencyHigh", "ticket", p95, at.wait("10m"),
             "95 % of requests to {{ $labels.model }} take up to {{ $value | humanizeDuration }}"),
        Rule("PereneOverloaded", "ticket", overload, at.wait("5m"),
             "{{ $value | humanizePercentage }} of requests are refused because they could not be answered in time"),
        Rule("PereneFallback", "ticket", _fell_back(at.window("15m")), at.wait("0m"),
             "Less answers than was asked for ({{ $labels.kind }} {{ $labels.model }})"),
        Rule("PereneJobsDead", "ticket", f'max by (kind) ({c.JOBS.name}{{state="dead"}}) > 0', at.wait("5m"),
             "{{ $value }} dead letters ({{ $labels.kind }}) wait for somebody"),
        Rule("PereneCostOverBudget", "ticket", cost, at.wait("5m"),
             "Key {{ $labels.key }} has cost {{ $value | humanizeDuration }} of serving in a day"),
    )  # fmt: skip


def _fell_back(window: str) -> str:
    by = "instance, model, kind"
    other = _grown(f'{c.FALLBACKS.name}{{kind!="gpu"}}', by, window)
    # `auto` falls back on every machine without a GPU: that is news only where there is one
    gpu = _grown(f'{c.FALLBACKS.name}{{kind="gpu"}}', by, window)
    return f"{other} or (({gpu}) and on (instance) {c.GPU_MEMORY.name})"


def _machines(asked: Limits, at: Pace) -> tuple[Rule, ...]:
    restarts = f"sum by (instance) (increase({c.WORKER_RESTARTS.name}[{at.window('1h')}]))"
    used = f"max by (instance, gpu) ({c.GPU_MEMORY.name}) / max by (instance, gpu) ({c.GPU_MEMORY_TOTAL.name})"
    on_gpu = f'{c.MODEL_LOADED.name}{{provider=~"CUDA.*|Tensorrt.*"}} == 1'

    def works(window: str) -> str:
        return f"max by (instance, gpu) (avg_over_time({c.GPU_UTILIZATION.name}[{at.window(window)}]))"

    idle = f"{works('6h')} < {_number(asked.gpu_idle_ratio)} and on (instance) {on_gpu}"
    return (
        Rule("PereneWorkerRestarts", "ticket", f"{restarts} > {_number(asked.worker_restarts)}", at.wait("0m"),
             "Serve workers of {{ $labels.instance }} died, and were started again, {{ $value | humanize }} times"
             " in an hour"),
        Rule("PereneGpuBusy", "ticket", f"{works('15m')} > {_number(asked.gpu_busy_ratio)}", at.wait("15m"),
             "GPU {{ $labels.gpu }} of {{ $labels.instance }} works {{ $value | humanizePercentage }} of the time"),
        Rule("PereneGpuIdle", "ticket", idle, at.wait("18h"),
             "GPU {{ $labels.gpu }} of {{ $labels.instance }} works {{ $value | humanizePercentage }} of the time"),
        Rule("PereneGpuMemoryFull", "ticket", f"{used} > {_number(asked.gpu_memory_ratio)}", at.wait("15m"),
             "{{ $value | humanizePercentage }} of the memory of GPU {{ $labels.gpu }} of {{ $labels.instance }}"
             " is in use"),
    )  # fmt: skip


def _events(asked: Limits, at: Pace) -> tuple[Rule, ...]:
    """Whether what was answered reaches the lake, and the lake is kept."""
    # 0 before the first round: an empty lake has none, and one that fails from the start is counted
    old = f"time() - (max({c.LAKE_UPKEEP_LAST_SUCCESS.name}) > 0) > {_number(asked.upkeep_stale_s)}"
    upkeep = f"{old} or sum(increase({c.LAKE_UPKEEP_FAILURES.name}[{at.window('6h')}])) >= 3"
    return (
        Rule("PereneEventsLost", "ticket", _grown(c.EVENTS_LOST.name, "reason", at.window("15m")), at.wait("0m"),
             "Prediction events were lost ({{ $labels.reason }})"),
        Rule("PereneSpoolFilling", "ticket",
             f"max by (instance) ({c.SPOOL_BYTES.name}) > {_number(asked.spool_bytes)}", at.wait("5m"),
             "{{ $value | humanize1024 }}B of events on {{ $labels.instance }} have not reached the lake"),
        Rule("PereneLakeUpkeepStale", "ticket", upkeep, at.wait("30m"),
             "Upkeep of the event lake does not complete: small files and expired days stay"),
    )  # fmt: skip


def _data(asked: Limits, at: Pace) -> tuple[Rule, ...]:
    """What is found in the data of one model, and whether anybody looks."""
    confirmed, broken = c.STATES["confirmed"], c.STATES["broken"]
    seen = f"max by (model) ({c.MONITOR_LAST_SUCCESS.name})"
    return (
        Rule("PereneDataQualityBroken", "ticket", f"max by (model) ({c.DATA_QUALITY_STATE.name}) == {broken}",
             at.wait("0m"), "The data sent to {{ $labels.model }} is broken; retraining on it is blocked"),
        Rule("PereneDriftConfirmed", "ticket", f"max by (model) ({c.DRIFT_STATE.name}) == {confirmed}", at.wait("0m"),
             "Inputs or scores of {{ $labels.model }} have drifted"),
        Rule("PerenePerformanceDegraded", "ticket", f"max by (model) ({c.PERFORMANCE_STATE.name}) == {confirmed}",
             at.wait("0m"), "Labels prove that {{ $labels.model }} errs more than on its reference"),
        Rule("PereneEstimatedLossHigh", "ticket", f"max by (model) ({c.ESTIMATED_STATE.name}) == {confirmed}",
             at.wait("0m"), "{{ $labels.model }} seems to err more than on its reference; no label proves it yet"),
        Rule("PereneLabelsLate", "ticket", _labels_late(asked, at), at.wait("10m"),
             "{{ $labels.model }} is asked, and its last label came {{ $value | humanizeDuration }} ago"),
        Rule("PereneMonitorStale", "ticket", f"time() - {seen} > {_number(asked.monitor_stale_s)}", at.wait("1m"),
             "Events of {{ $labels.model }} were last looked at {{ $value | humanizeDuration }} ago"),
        Rule("PereneMonitorAbsent", "ticket", f"({_CHAMPIONS}) unless on (model) {c.MONITOR_LAST_SUCCESS.name}",
             at.wait("30m"), "{{ $labels.model }} is deployed and never monitored"),
    )  # fmt: skip


def _labels_late(asked: Limits, at: Pace) -> str:
    """A weekly delivery is not late after a day: the model's own delay says what is."""
    usual = f'2 * max by (model) ({c.LABEL_LAG.name}{{quantile="0.95"}})'
    late = f"time() - max by (model) ({c.LABEL_LAST.name}) > clamp_min({usual}, {_number(asked.labels_late_s)})"
    return f"{late} and on (model) sum by (model) (increase({c.ROWS.name}[{at.window('1d')}])) > 0"


def _loop(asked: Limits, at: Pace) -> tuple[Rule, ...]:
    """Retraining and trials."""
    failed = f'{c.RETRAIN_RUNS.name}{{result="failed"}}'
    moved = f"max by (model) (changes({c.EXPERIMENT_EFFECT.name}[{at.window('1h')}])) > 0"
    slow = f'max by (model) ({c.LABEL_LAG.name}{{quantile="0.95"}}) > {_number(asked.experiment_label_lag_s)}'
    stuck = f"max by (model) ({c.EXPERIMENT_STAGE.name}) > 0 unless on (model) ({moved}) unless on (model) ({slow})"
    return (
        Rule("PereneRetrainFailing", "ticket", f"sum by (model) (increase({failed}[{at.window('6h')}])) >= 2",
             at.wait("0m"), "Retraining of {{ $labels.model }} failed twice or more in six hours"),
        Rule("PereneRetrainBreakerOpen", "ticket", f"max by (model) ({c.RETRAIN_BREAKER.name}) == 1", at.wait("0m"),
             "{{ $labels.model }} is not retrained any more: its runs broke one after the other"),
        Rule("PereneRetrainOverdue", "ticket",
             f"max by (model) ({c.RETRAIN_OVERDUE.name}) > {_number(asked.retrain_overdue_s)}", at.wait("15m"),
             "Retraining of {{ $labels.model }} has been due for {{ $value | humanizeDuration }} and does not begin"),
        Rule("PereneGateBlind", "page", f"max by (model) ({c.GATE_BLIND.name}) == 1", at.wait("0m"),
             "The gates of {{ $labels.model }} no longer stop what they must: no version may be promoted by them"),
        Rule("PereneExperimentStuck", "ticket", stuck, at.wait("1d"),
             "The trial of {{ $labels.model }} has learned nothing for a day"),
        Rule("PereneSampleRatioMismatch", "ticket",
             f"max by (model) ({c.EXPERIMENT_SRM.name}) > {_number(asked.srm_evalue)}", at.wait("0m"),
             "The trial of {{ $labels.model }} is not split as asked: its result cannot be trusted"),
    )  # fmt: skip
