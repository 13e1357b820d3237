"""The alert rules as values, and the Prometheus rule file made from them.

`python -m monitoring.alerts --check deploy/prometheus/perene-rules.yml` fails when the file is not current,
`--write` brings it up to date. Every expression is built from the catalogue, so a renamed metric renames its alert.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from monitoring import catalogue as c
from monitoring.generated import keep_current

Severity = Literal["page", "ticket", "info"]

RUNBOOKS = "docs/runbooks"
SLO_ERROR_BUDGET = 0.001  # 99.9 % of requests are answered without a fault of ours
SLO_MIN_REQUESTS = 100  # below this a single error would be a burn
LATENCY_P95_S = 0.25
OVERLOAD_RATIO = 0.01  # of requests refused because they could not be answered in time
WORKER_RESTARTS = 2  # in an hour; one is an accident
MONITOR_STALE_S = 900
ALIAS_LAG_S = 120
PERFORMANCE_EVALUE = 10_000  # the average run length, in labels, to a false alarm (monitoring.md, section 2)
SRM_EVALUE = 1_000  # Ville: exceeded with probability at most 1/1000 when the split is as asked


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

    @property
    def runbook_url(self) -> str:
        """Where the page is, relative to the repository."""
        return f"{RUNBOOKS}/{self.page}"


def _error_ratio(window: str) -> str:
    # Shadow answers reach nobody, so their faults spend no budget.
    name = c.REQUESTS.name
    bad = f'(sum(rate({name}{{arm!="shadow",code=~"5.."}}[{window}])) or vector(0))'
    return f'{bad} / sum(rate({name}{{arm!="shadow"}}[{window}]))'


def _burn(factor: float, long: str, short: str) -> str:
    limit = f"{factor * SLO_ERROR_BUDGET:.6g}"
    enough = f'sum(increase({c.REQUESTS.name}{{arm!="shadow"}}[{long}])) > {SLO_MIN_REQUESTS}'
    return f"({_error_ratio(long)} > {limit}) and ({_error_ratio(short)} > {limit}) and ({enough})"


def _grown(counter: str, by: str, window: str) -> str:
    """Growth of a counter; also one whose first sample is above 0, which `increase()` cannot see."""
    fresh = f"sum by ({by}) ({counter} unless {counter} offset {window}) > 0"
    return f"sum by ({by}) (increase({counter}[{window}])) > 0 or {fresh}"


def rules() -> tuple[Rule, ...]:
    """Every alert, most urgent first."""
    confirmed, broken = c.STATES["confirmed"], c.STATES["broken"]
    failed = f'{c.RETRAIN_RUNS.name}{{result="failed"}}'
    p95 = (
        f"histogram_quantile(0.95, sum by (model, le) (rate({c.REQUEST_DURATION.name}_bucket[5m]))) > {LATENCY_P95_S}"
        f" and on (model) sum by (model) (increase({c.REQUEST_DURATION.name}_count[5m])) > {SLO_MIN_REQUESTS}"
    )
    champions = f"max by (model) ({c.CHAMPION_VERSION.name}) > 0"
    seen = f"max by (model) ({c.MONITOR_LAST_SUCCESS.name})"
    leaders = f"sum({c.SCHEDULER_IS_LEADER.name})"
    late = f'{c.REJECTED.name}{{reason=~"queue_full|deadline"}}'
    asked = f'{c.REQUESTS.name}{{arm!="shadow"}}'
    overload = (
        f"sum by (instance) (rate({late}[5m])) / sum by (instance) (rate({asked}[5m])) > {OVERLOAD_RATIO}"
        f" and sum by (instance) (increase({asked}[5m])) > {SLO_MIN_REQUESTS}"
    )
    restarts = f"sum by (instance) (increase({c.WORKER_RESTARTS.name}[1h])) > {WORKER_RESTARTS}"
    fell = "instance, model, kind"
    other = _grown(f'{c.FALLBACKS.name}{{kind!="gpu"}}', fell, "15m")
    # `auto` falls back on every machine without a GPU: that is news only where there is one
    gpu = _grown(f'{c.FALLBACKS.name}{{kind="gpu"}}', fell, "15m")
    fallback = f"{other} or (({gpu}) and on (instance) {c.GPU_MEMORY.name})"
    return (
        Rule("PereneNoHealthyChampion", "page",
             f'({champions}) unless on (model) {c.MODEL_LOADED.name}{{alias="champion"}} == 1', "2m",
             "No serve process has the champion of {{ $labels.model }} loaded and warm"),
        Rule("PereneErrorBudgetBurnFast", "page", _burn(14.4, "1h", "5m"), "2m",
             "Faults spend the month's error budget in two days"),
        Rule("PereneErrorBudgetBurnSlow", "page", _burn(6, "6h", "30m"), "15m",
             "Faults spend the month's error budget in five days"),
        Rule("PereneRollbackExecuted", "page", _grown(c.ROLLBACKS.name, "model, reason", "15m"), "0m",
             "{{ $labels.model }} was rolled back ({{ $labels.reason }})"),
        Rule("PereneNoLeader", "page", f"({leaders} or vector(0)) < 1", "2m",
             "No worker leads: nothing is monitored, retrained or promoted"),
        Rule("PereneTwoLeaders", "page", f"{leaders} > 1", "1m", "{{ $value }} workers believe that they lead"),
        Rule("PereneLatencyHigh", "ticket", p95, "10m",
             "95 % of requests to {{ $labels.model }} take up to {{ $value | humanizeDuration }}"),
        Rule("PereneOverloaded", "ticket", overload, "5m",
             "{{ $value | humanizePercentage }} of requests are refused because they could not be answered in time"),
        Rule("PereneWorkerRestarts", "ticket", restarts, "0m",
             "Serve workers died and were started again more than twice in an hour"),
        Rule("PereneFallback", "ticket", fallback, "0m",
             "Less answers than was asked for ({{ $labels.kind }} {{ $labels.model }})"),
        Rule("PereneAliasLag", "ticket", f"max by (model) ({c.ALIAS_LAG.name}) > {ALIAS_LAG_S}", "1m",
             "{{ $labels.model }} has not followed the ledger for {{ $value | humanizeDuration }}"),
        Rule("PereneDataQualityBroken", "ticket", f"max by (model) ({c.DATA_QUALITY_STATE.name}) == {broken}", "0m",
             "The data sent to {{ $labels.model }} is broken; retraining on it is blocked"),
        Rule("PereneDriftConfirmed", "ticket", f"max by (model) ({c.DRIFT_STATE.name}) == {confirmed}", "0m",
             "Inputs or scores of {{ $labels.model }} have drifted"),
        Rule("PerenePerformanceDegraded", "ticket",
             f"max by (model) (max_over_time({c.PERFORMANCE_EVALUE.name}[1h])) >= {PERFORMANCE_EVALUE}", "0m",
             "Labels prove that {{ $labels.model }} errs more than on its reference"),
        Rule("PereneMonitorStale", "ticket", f"time() - {seen} > {MONITOR_STALE_S}", "1m",
             "Events of {{ $labels.model }} were last looked at {{ $value | humanizeDuration }} ago"),
        Rule("PereneMonitorAbsent", "ticket", f"({champions}) unless on (model) {c.MONITOR_LAST_SUCCESS.name}", "30m",
             "{{ $labels.model }} is deployed and never monitored"),
        Rule("PereneEventsLost", "ticket", _grown(c.EVENTS_LOST.name, "reason", "15m"), "0m",
             "Prediction events were lost ({{ $labels.reason }})"),
        Rule("PereneRetrainFailing", "ticket", f"sum by (model) (increase({failed}[6h])) >= 2", "0m",
             "Retraining of {{ $labels.model }} failed twice or more in six hours"),
        Rule("PereneSampleRatioMismatch", "ticket", f"max by (model) ({c.EXPERIMENT_SRM.name}) > {SRM_EVALUE}", "0m",
             "The trial of {{ $labels.model }} is not split as asked: its result cannot be trusted"),
        Rule("PereneWatchdog", "info", "vector(1)", "0m", "Always fires: silence means that alerting is broken"),
    )  # fmt: skip


def render(catalogue: Sequence[Rule] | None = None) -> str:
    """Return the rule file. Scalars are JSON strings, which YAML 1.2 reads as they are."""
    lines = [
        "# Made by `python -m monitoring.alerts --write`; edit monitoring/alerts.py instead.",
        "groups:",
        "  - name: perene",
        "    rules:",
    ]
    for rule in catalogue if catalogue is not None else rules():
        lines += [
            f"      - alert: {rule.name}",
            f"        expr: {json.dumps(rule.expr)}",
            f"        for: {rule.wait}",
            "        labels:",
            f"          severity: {rule.severity}",
            "        annotations:",
            f"          summary: {json.dumps(rule.summary)}",
            f"          runbook_url: {json.dumps(rule.runbook_url)}",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(keep_current("monitoring.alerts", render))
