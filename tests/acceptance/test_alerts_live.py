"""From the live platform to whoever is called: Prometheus and Alertmanager fire and resolve real faults.

The rules are the generator's at another pace: windows and waits divided by 120, by the same code.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import PoissonRegressor

from monitoring.alerting.alert_limits import Limits, Pace
from monitoring.alerting.alerts import render
from perene.api import log_model
from perene.config import load
from perene.keyring import LOCAL, ensure_key
from tests.acceptance.test_prometheus_live import running, until_ready
from tests.alertmanager import Webhook, alertmanager, faster, fill, webhook
from tests.ports import free_port
from tests.prometheus import configure, get, prometheus, until_all_are_up

pytestmark = pytest.mark.timeout(420)
RULES = render(Limits(monitor_stale_s=6, slo_min_requests=20), pace=Pace(120, least_s=6))
MODEL = "toy"
WINDOW = 100
CONFIG = f"""
[serving]
seal_seconds = 0.2

[serving.queue]
seconds = 60

[models.{MODEL}.monitoring]
window_rows = {WINDOW}
min_rows = {WINDOW}
"""
# What is broken on purpose, what follows from it, and what a slow machine or the first seconds may show at this pace.
MAY_FIRE = {
    "PereneWatchdog", "PereneDriftConfirmed", "PereneDataQualityBroken", "PereneMonitorStale", "PereneErrorRateHigh",
    "PereneErrorBudgetBurnFast", "PereneErrorBudgetBurnSlow", "PereneErrorBudgetTrickle", "PereneEstimatedLossHigh",
    "PereneLatencyHigh", "PereneOverloaded", "PereneNoLeader", "PereneNoHealthyChampion", "PereneAliasLag",
}  # fmt: skip
RNG = np.random.default_rng(0)


def said(home: Path) -> str:
    """The last words of server and worker, but for the lines of requests."""
    lines = (home / "out").read_text(errors="replace").splitlines()
    return "\n".join([line for line in lines if '"event":"request"' not in line][-20:])


class Scene:
    """The platform, who watches it, and who is told."""

    def __init__(self, client: httpx.Client, prometheus: str, heard: Webhook, home: Path) -> None:
        self.client, self.prometheus, self.heard, self.home = client, prometheus, heard, home

    def ask(self, mean: float = 0.0, *, rows: int = WINDOW) -> int:
        """One request of as many rows, whose numbers lie around a mean; returns its status."""
        body = {"rows": [{"x": float(x), "z": float(z)} for x, z in RNG.normal((mean, 0.0), 1.0, (rows, 2))]}
        return self.client.post(f"/models/{MODEL}/predict", json=body).status_code

    def fault(self) -> int:
        """One request that the model answers with infinity, which is our fault; returns its status."""
        return self.client.post(f"/models/{MODEL}/predict", json={"rows": [{"x": 1e4, "z": 0.0}]}).status_code

    def until_told(self, name: str, model: str, status: str, act: Callable[[], object], seconds: float = 60.0) -> None:
        """Act again and again until the news arrives; what Prometheus saw is in the failure."""
        deadline = time.monotonic() + seconds
        while (name, model, status) not in self.heard.alerts():
            if time.monotonic() > deadline:
                pytest.fail(f"{name} of {model!r} was never told as {status}\n{self.why(name)}")
            act()
            time.sleep(0.1)

    def why(self, name: str) -> str:
        """The rule, what it sees, what was told, and the last words of the processes."""
        (group,) = get(f"{self.prometheus}/api/v1/rules")["groups"]
        (rule,) = (rule for rule in group["rules"] if rule["name"] == name)
        seen = {part: self.value(part) for part in ("perene_drift_state", "perene_scheduler_is_leader",
                "time() - perene_monitor_last_success_timestamp_seconds", "perene_monitor_failures_total",
                "sum by (code) (increase(perene_requests_total[30s]))", "perene_window_rows", "up")}  # fmt: skip
        facts = {"rule": rule["query"], "state": rule["state"], "health": rule["health"], "seen": seen,
                 "told": self.heard.alerts()}  # fmt: skip
        return f"{json.dumps(facts)}\n{said(self.home)}"

    def value(self, expr: str) -> list[tuple[dict[str, str], str]]:
        """What Prometheus answers now."""
        found = get(f"{self.prometheus}/api/v1/query?query={quote(expr)}")["result"]
        return [(each["metric"], each["value"][1]) for each in found]


def drift_comes_and_goes(scene: Scene) -> None:
    """Numbers two deviations off are told as drift; after enough of the usual ones it is over."""
    scene.until_told("PereneDriftConfirmed", MODEL, "firing", lambda: scene.ask(2.0))
    scene.until_told("PereneDriftConfirmed", MODEL, "resolved", lambda: scene.ask(rows=20 * WINDOW))


def a_damaged_file_stops_the_monitor_until_it_is_gone(scene: Scene) -> None:
    """The worker lives and leads, its turns over the model fail, and predictions go on."""
    codes: set[int] = set()
    written = next((scene.home / "events").glob(f"model={MODEL}/kind=prediction/date=*/*.parquet"))
    damaged = written.with_name("00000000-1-2-v1.parquet")
    damaged.write_bytes(b"PAR1" + bytes(64) + b"PAR1")
    scene.until_told("PereneMonitorStale", MODEL, "firing", lambda: codes.add(scene.ask(rows=1)))
    damaged.unlink()
    scene.until_told("PereneMonitorStale", MODEL, "resolved", lambda: codes.add(scene.ask(rows=1)))
    assert codes == {200}


def faults_burn_the_budget_until_they_stop(scene: Scene) -> None:
    """One answer in three fails: paged; they stop: over, although the long window still remembers them."""
    codes: set[int] = set()

    def a_third() -> None:
        codes.update((scene.fault(), scene.ask(rows=1), scene.ask(rows=1)))

    scene.until_told("PereneErrorBudgetBurnFast", "", "firing", a_third)
    assert codes == {200, 500}
    scene.until_told("PereneErrorBudgetBurnFast", "", "resolved", lambda: scene.ask(rows=1))


def test_faults_of_the_live_platform_are_told_and_taken_back(home: Path, tmp_path: Path) -> None:
    """Drift, a monitor that stands still, and a burning error budget, from the model to a webhook and back."""
    (home / "perene.toml").write_text(CONFIG)
    settings = load(home / "perene.toml", home=home)
    frame = pd.DataFrame(RNG.normal(0.0, 1.0, (5_000, 2)), columns=["x", "z"])
    counts = RNG.poisson(np.exp(0.5 * frame.x + 0.2 * frame.z)).astype(float)
    log_model(PoissonRegressor(alpha=0).fit(frame, counts), frame, counts, name=MODEL, settings=settings)
    ports = {"perene-serve": free_port(), "perene-worker": free_port()}
    url = f"http://127.0.0.1:{ports['perene-serve']}"
    headers = {"X-API-Key": ensure_key(settings, *LOCAL)}
    with webhook() as heard, running(home, ports, "serve", "worker"):
        filled = fill(ALERT_PAGE_WEBHOOK_URL=f"{heard.url}/page", ALERT_TICKET_WEBHOOK_URL=f"{heard.url}/ticket",
                      ALERT_WATCHDOG_WEBHOOK_URL=f"{heard.url}/alive")  # fmt: skip
        until_ready(url)
        with alertmanager(tmp_path / "alertmanager", faster(filled.stdout)) as told:
            config = configure(tmp_path, ports, rules=RULES, alertmanager=told)
            with prometheus(config) as base, httpx.Client(base_url=url, headers=headers, timeout=30) as client:
                assert until_all_are_up(base) == {"perene-serve": "up", "perene-worker": "up"}, said(home)
                scene = Scene(client, base, heard, home)
                scene.until_told("PereneWatchdog", "", "firing", lambda: scene.ask(rows=1))
                for part in (drift_comes_and_goes, a_damaged_file_stops_the_monitor_until_it_is_gone,
                             faults_burn_the_budget_until_they_stop):  # fmt: skip
                    began = time.monotonic()
                    part(scene)
                    print(f"{part.__name__}: {time.monotonic() - began:.1f} s")
    paths = {name: n.path for n in heard.heard for name, _, _ in n.alerts}
    assert set(paths) <= MAY_FIRE
    assert paths["PereneErrorBudgetBurnFast"] == "/page"
    assert paths["PereneDriftConfirmed"] == paths["PereneMonitorStale"] == "/ticket"
    assert paths["PereneWatchdog"] == "/alive"
