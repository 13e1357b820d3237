"""The worker: one tick looks at every model once. All writes carry the leader's token; all state is in the ledger."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server

from monitoring.alerting.metrics import WorkerMetrics
from monitoring.lake.lake import Lake
from monitoring.lake.upkeep_run import Job
from monitoring.settings import MonitoringSettings
from monitoring.watching.findings import ALARMS, Finding
from registry.bundle import Bundle, read_bundle
from registry.errors import BundleCorrupt, LeaseLost, LedgerConflict, PereneError
from registry.ledger import Deployment, Ledger
from retrain.aliases import SETTLE_S, AliasWatch
from retrain.gates.held import release
from retrain.gates.nightly import SelfTests
from retrain.gauges import Gauges
from retrain.leader import Leader
from retrain.places import Places
from retrain.reports.reports import Reports
from retrain.settings import RetrainSettings, WatchSettings, WorkerSettings
from retrain.training.runs import Concluded, Runs
from retrain.trials.trial_gauges import rollback_reasons
from retrain.trials.trials import Trials
from retrain.triggering.scheduler import Clock
from retrain.triggering.turn import Occasions, tried
from retrain.upkeep import Upkeep
from retrain.watch import Watch

__all__ = ["Worker", "create_worker"]

log = logging.getLogger("perene.retrain")


def _wall() -> datetime:
    return datetime.now(UTC)


@dataclass
class Worker:
    """Collaborators are passed in; `tick` may be called by hand, `run` calls it until `stop`."""

    settings: WorkerSettings
    places: Places
    ledger: Ledger
    lake: Lake
    leader: Leader
    gauges: Gauges
    wall: Callable[[], datetime] = _wall
    runs: Runs = field(init=False)
    occasions: Occasions = field(init=False)
    trials: Trials = field(init=False)
    reports: Reports = field(init=False)
    upkeep: Upkeep = field(init=False)
    aliases: AliasWatch = field(init=False)
    self_tests: SelfTests = field(init=False)
    _watches: dict[str, Watch] = field(default_factory=dict, init=False)
    _counted: dict[str, int] = field(default_factory=dict, init=False)
    _bundles: dict[tuple[str, int], Bundle] = field(default_factory=dict, init=False)
    _wake: threading.Event = field(default_factory=threading.Event, init=False)
    _stopping: bool = field(default=False, init=False)
    _token: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.runs = Runs(self.ledger, self.places, self.settings.runs_at_once, self.settings.hook_secret)
        tables = {model: table.trial for model, table in self.settings.models.items()}
        self.trials = Trials(self.ledger, self.lake, self.settings.policy, tables)
        self.occasions = Occasions(self.ledger, self.places, self.runs, self.trials, self.gauges)
        self.reports = Reports(self.places, self.ledger, self.gauges.metrics)
        self.upkeep = Upkeep(self.places, self.gauges.metrics, self.settings.upkeep_s)
        self.self_tests = SelfTests(self.places, self.ledger, self.gauges.metrics)
        self.aliases = AliasWatch(self.places, self.settings.policy, self.settings.trusted, self.settings.allow_pickle)

    # one turn ---------------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """One turn; False when another worker leads."""
        token = self.leader.claim()
        if token != self._token:
            self._forget()
            self._token = token
        self.gauges.metrics.scheduler_is_leader.set(0 if token is None else 1)
        if token is None:
            return False
        try:
            deployments = self.ledger.deployments()
            self.gauges.metrics.start(deployments)
            for model, deployment in deployments.items():
                self._turn(model, deployment, token)
            self._tend_the_rest(deployments, token)
        except LeaseLost:
            self.leader.drop()
            self._forget()
            return False
        return True

    def _tend_the_rest(self, deployments: Mapping[str, Deployment], token: int) -> None:
        """What is of no single model, each apart: a disk that takes no report must not cost the worker its life."""
        quiet = not self.runs.busy
        with self._apart(""):
            self.reports.tend(quiet=quiet, token=token)
        with self._apart(""):
            self.aliases.tend(self.ledger.revision(), token=token, quiet=quiet)
        with self._apart(""):
            self.upkeep.tend(lambda: self._upkeep_jobs(deployments), quiet=quiet)
        with self._apart(""):
            self.self_tests.tend(quiet=quiet, token=token)

    def _turn(self, model: str, deployment: Deployment, token: int) -> None:
        """One model's turn; its trouble must not keep the others from theirs, nor its trial from being looked at."""
        champion = None
        with self._apart(model):
            champion = self._bundle(model, deployment.champion)
        if champion is None:
            return  # serving's puller has not fetched it yet
        table, sound = self.settings.models.get(model, WatchSettings()), False
        watch = self._watches.setdefault(model, Watch(model, self.ledger, self.lake, table.monitoring))
        with self._apart(model):
            self._observe(deployment, champion, table, watch, token)
            sound = True
        with self._apart(model):
            now = self._now(table, watch)
            if now is not None and table.retrain is not None and sound:
                self._improve(model, deployment, champion, table.retrain, watch, now, token)
            elif now is not None:
                self._try(deployment, champion, now, token)
            if sound:
                self.gauges.metrics.monitor_last_success_timestamp_seconds.labels(model).set(time.time())

    def _now(self, table: WatchSettings, watch: Watch) -> datetime | None:
        return watch.now() if table.retrain and table.retrain.clock == "event" else self.wall()

    def _observe(
        self, deployment: Deployment, champion: Bundle, table: WatchSettings, watch: Watch, token: int
    ) -> None:
        """What arrived since the last turn, and what it tells of the model."""
        m, model = self.gauges.metrics, deployment.model
        m.champion_version.labels(model).set(deployment.champion)
        self._count_rollbacks(deployment)
        labels, unmatched = watch.labels, watch.unmatched
        findings = watch.feed(champion, deployment.champion, token=token)
        m.labels_received_total.labels(model).inc(max(watch.labels - labels, 0))
        m.labels_unmatched_total.labels(model).inc(max(watch.unmatched - unmatched, 0))
        self._explain(findings, deployment.champion, table.monitoring)
        now = self._now(table, watch)
        self.gauges.monitor(model, watch.snapshot())
        if watch.label_at:
            m.label_last_timestamp_seconds.labels(model).set(watch.label_at)
        if (clock := watch.now()) is not None:
            m.monitor_event_timestamp_seconds.labels(model).set(clock.timestamp())
        if self.settings.reports:
            self.reports.look(model, deployment.champion, table.monitoring, now)
        if now is not None:
            self.gauges.reference_age(model, champion.reference, now)

    @contextlib.contextmanager
    def _apart(self, model: str) -> Iterator[None]:
        """Trouble within is told, and goes no further."""
        try:
            yield
        except LeaseLost:
            raise
        except LedgerConflict as error:
            log.info("retrain.conflict", extra={"model": model, "where": error.where})
        except PereneError as error:
            self.gauges.metrics.monitor_failures_total.labels(model).inc()
            log.warning("retrain.turn_failed: %s", error, extra={"model": model, "code": error.code})
        except Exception as error:  # odd data, a foreign file, somebody's detector: it is this model's trouble alone
            self.gauges.metrics.monitor_failures_total.labels(model).inc()
            where = traceback.extract_tb(error.__traceback__)[-1]
            extra = {"model": model, "where": f"{Path(where.filename).name}:{where.lineno}"}
            log.error("retrain.turn_broke: %s", type(error).__name__, extra=extra)  # its text may quote values

    def _count_rollbacks(self, deployment: Deployment) -> None:
        """Rollbacks are made elsewhere too (by command, by another leader): they are read off the ledger."""
        model = deployment.model
        seen = self._counted.setdefault(model, deployment.revision)
        if deployment.revision == seen:
            return
        for reason in rollback_reasons(self.ledger.history(model), after=seen):
            self.gauges.metrics.rollbacks_total.labels(model, reason).inc()
        self._counted[model] = deployment.revision

    def _improve(
        self,
        model: str,
        deployment: Deployment,
        champion: Bundle,
        settings: RetrainSettings,
        watch: Watch,
        now: datetime,
        token: int,
    ) -> None:
        """Run, trial and trigger of one model, in the order in which one leads to the next."""
        try:
            done = self.runs.tend(model, token=token)
            if done is not None:
                self._conclude(done, settings, now, token)
        finally:  # a candidate that answers callers is looked at, whatever is wrong with a run
            self._try(deployment, champion, now, token)
        self.occasions.look(deployment, champion, settings, watch, now, token=token)
        self.self_tests.look(model, deployment.champion, settings, now)
        release(self.ledger, model)

    def _conclude(self, done: Concluded, settings: RetrainSettings, now: datetime, token: int) -> None:
        """Intent first (the trial's row), the run's last row after: a crash between repeats the first harmlessly."""
        m, model = self.gauges.metrics, done.run.model
        if tried(done):
            self.trials.begin(done, settings, now, token=token)
        self.runs.close_run(done, token=token)
        m.retrain_runs_total.labels(model, done.spec.reason, done.ended).inc()
        m.retrain_duration_seconds.labels(model).observe(done.seconds)
        for gate in done.result.gates if done.result else ():
            m.gate_result_total.labels(model, gate["gate"], gate["verdict"]).inc()

    def _try(self, deployment: Deployment, champion: Bundle, now: datetime, token: int) -> None:
        model = deployment.model
        bundle = partial(self._bundle, model)
        self.gauges.turn(model, self.trials.turn(deployment, champion, now, token=token, bundle=bundle))

    # parts ------------------------------------------------------------------------------------------------

    def _bundle(self, model: str, version: int) -> Bundle | None:
        if (model, version) not in self._bundles:
            try:
                self._bundles[model, version] = read_bundle(self.places.bundle(model, version))
            except BundleCorrupt:
                return None
        return self._bundles[model, version]

    def _explain(self, findings: list[Finding], version: int, settings: MonitoringSettings) -> None:
        for finding in findings:
            log.info("monitor.finding: %s is %s", finding.kind, finding.state, extra={"model": finding.model})
            if self.settings.reports and finding.state in ALARMS:
                rows = self.ledger.evidence(finding.model, "finding", limit=200)
                found = [row.id for row in rows if row.body == finding.to_dict()]
                if found:
                    self.reports.ask(finding.model, found[0], version, finding.at, settings)

    def _upkeep_jobs(self, deployments: Mapping[str, Deployment]) -> list[Job]:
        """What may be merged or removed of each model: of a deployed one only what its watch has folded and saved."""
        jobs = []
        for model in self.lake.models():
            table, watch = self.settings.models.get(model, WatchSettings()), self._watches.get(model)
            consumed = watch.saved if watch is not None else None
            if model in deployments and (watch is None or consumed is None):
                continue
            by_event = table.retrain is not None and table.retrain.clock == "event"
            now = watch.now() if watch is not None and by_event else self.wall()
            keep = table.retention_days or self.settings.retention_days
            if consumed is None:
                jobs.append(Job(model, self.wall().date(), keep))
            elif now is not None:
                names, marks = sorted(consumed.names), dict(consumed.marks)
                jobs.append(Job(model, now.date(), keep, watched=True, names=names, marks=marks))
        return jobs

    def _forget(self) -> None:
        """Leadership changed: what is in memory may be stale, the ledger is not."""
        self.upkeep.stop()
        self.self_tests.stop()
        self.reports.stop()
        self.runs.stop()
        self.occasions.forget()
        self._watches.clear()
        self.gauges.forget()

    # life -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Tick until `stop`. The clock's thread wakes this one; children must belong to a thread that stays."""
        clock = Clock()
        clock.every(self.settings.tick_s, self._wake.set)
        clock.every(self.settings.lease_ttl_s / 3, self.leader.keep)
        clock.start()
        try:
            while not self._stopping:
                self._wake.wait()
                self._wake.clear()
                if not self._stopping:
                    self._safe_tick()
        finally:
            clock.stop()
            self.close()

    def _safe_tick(self) -> None:
        try:
            self.tick()
        except PereneError as error:  # the ledger is away: nothing can be decided, the next tick tries again
            log.warning("retrain.tick_failed: %s", error, extra={"code": error.code})

    def stop(self) -> None:
        """Ask `run` to end at the clock's next tick.

        Only a flag: a signal handler that takes the event's lock while `run` holds it would wait for itself.
        """
        self._stopping = True

    def close(self) -> None:
        """Kill children (their runs are resumed later), give the lease back, close the ledger.

        MLflow is told of the last move first: whoever reads its aliases next need not wait for another worker.
        """
        self.runs.stop()
        self.upkeep.stop()
        self.self_tests.stop()
        self.reports.stop()
        token = self.leader.token
        if token is not None:
            with contextlib.suppress(PereneError):  # a store that is away: the next worker tells
                self.aliases.settle(self.ledger.revision(), token=token, seconds=SETTLE_S)
        self.aliases.stop()
        self.leader.release()
        self.ledger.close()


def create_worker(
    settings: WorkerSettings,
    home: Path,
    *,
    registry: CollectorRegistry | None = None,
    wall: Callable[[], datetime] = _wall,
) -> Worker:
    """Wire one worker over the stores under `home`; nothing runs yet and no port is open."""
    signing_key = str(settings.signing_key or "")
    places = Places(home.resolve(), settings.ledger_url, settings.tracking_uri, signing_key, settings.lake_url)
    ledger = Ledger.open(places.ledger_url)
    leader = Leader(ledger, f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}", settings.lease_ttl_s)
    gauges = Gauges(WorkerMetrics(registry or CollectorRegistry()))
    return Worker(settings, places, ledger, Lake(places.lake), leader, gauges, wall)


def serve_metrics(worker: Worker) -> int:
    """Open the worker's `/metrics`; returns the port."""
    server, _ = start_http_server(
        worker.settings.port, addr=worker.settings.host, registry=worker.gauges.metrics.registry
    )
    return int(server.server_port)
