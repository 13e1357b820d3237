"""One model's look for a reason to retrain: the facts, the decision, and the run that follows."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from datetime import datetime

from registry.bundle import Bundle
from registry.ledger import Deployment, Ledger
from retrain.gauges import Gauges
from retrain.places import Places
from retrain.settings import RetrainSettings
from retrain.training.runs import Concluded, Runs, run_id
from retrain.training.spec import Spec
from retrain.trials.trials import Trials
from retrain.triggering import occasion, standing
from retrain.triggering.triggers import Facts, decide
from retrain.watch import Watch

__all__ = ["PRETRAINED", "Occasions"]

PRETRAINED = "estimated"
"""The trigger whose version waits for labels before it is tried."""
log = logging.getLogger("perene.retrain")


@dataclass(frozen=True)
class Occasions:
    """Begins runs. What it remembers is what the ledger says of each model."""

    ledger: Ledger
    places: Places
    runs: Runs
    trials: Trials
    gauges: Gauges
    _standing: dict[str, standing.Standing] = field(default_factory=dict, init=False)
    _fitted_on: dict[tuple[str, int], int] = field(default_factory=dict, init=False)

    def look(
        self,
        deployment: Deployment,
        champion: Bundle,
        settings: RetrainSettings,
        watch: Watch,
        now: datetime,
        *,
        token: int,
    ) -> None:
        """Begin a run of the model, or write down what holds it."""
        model = deployment.model
        facts = occasion.facts(
            self.ledger,
            watch,
            settings,
            now,
            full=self.runs.full,
            ended_at=self.trials.ended_at(model),
            fitted_on=self._rows(deployment, champion),
        )
        self.gauges.waiting(model, facts)
        if self._try_what_waits(facts, deployment, settings, now, token):
            return
        cooldown = occasion.cooldown(settings, watch, now)
        trigger = decide(
            facts,
            cooldown=cooldown,
            min_labels=settings.min_labels,
            triggers=settings.triggers,
            volume=settings.volume,
        )
        self.gauges.held(model, trigger)
        before = self._standing.get(model) or standing.read(self.ledger, model)
        self._standing[model] = standing.keep(self.ledger, model, trigger, now.isoformat(), before, token=token)
        if trigger.reason is None:
            return
        log.info("retrain.begin: %s", trigger.why, extra={"model": model})
        spec = Spec(
            run_id=run_id(model, trigger.reason, deployment.champion, now, settings),
            model=model,
            home=str(self.places.home),
            ledger_url=self.places.ledger,
            tracking_uri=self.places.tracking,
            signing_key=self.places.signing_key,
            reason=trigger.reason,
            now=now,
            champion=deployment.champion,
            former=occasion.former_champions(self.ledger.history(model), deployment.champion),
            settings=settings.model_dump(mode="json"),
            drift_at=occasion.drift_since(self.ledger, model, deployment.champion),
            labels=watch.labels,
            cooldown_s=cooldown.total_seconds(),
        )
        self.runs.begin(spec, token=token)

    def forget(self) -> None:
        """Leadership changed: another worker may have written since."""
        self._standing.clear()

    def _try_what_waits(
        self, facts: Facts, deployment: Deployment, settings: RetrainSettings, now: datetime, token: int
    ) -> bool:
        """Labels agree with the estimate that a version was trained for: its trial begins, and no further run."""
        if facts.performance != "confirmed" or facts.running or facts.in_trial:
            return False
        done = self.runs.untried(deployment.model, deployment.champion, PRETRAINED)
        if done is None:
            return False
        log.info("retrain.pretrained: labels agree", extra={"model": deployment.model})
        return self.trials.begin(done, settings, now, token=token) is not None

    def _rows(self, deployment: Deployment, champion: Bundle) -> int:
        """Rows that the champion was fitted on, by its card; 0 when it has none."""
        key = deployment.model, deployment.champion
        if key not in self._fitted_on:
            path = champion.path / "card.json"
            card = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            self._fitted_on[key] = int(card.get("training", {}).get("rows") or 0)
        return self._fitted_on[key]


def tried(done: Concluded) -> bool:
    """Whether a concluded run's version goes on to a trial by itself."""
    return done.spec.reason != PRETRAINED
