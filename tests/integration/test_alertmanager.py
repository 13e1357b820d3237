"""Who is told of what: routes, inhibitions and receivers, by Alertmanager itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from monitoring.alerting.alert_rules import Rule, rules
from tests.alertmanager import SOURCE, alertmanager, faster, fill, mailbox, muted, post, webhook

EVERYTHING = {
    "ALERT_PAGE_WEBHOOK_URL": "http://127.0.0.1:9/hook?who='us'&x=#1",
    "ALERT_PAGE_SLACK_URL_FILE": "/run/secrets/slack",
    "ALERT_PAGE_SLACK_CHANNEL": "#pages",
    "ALERT_PAGE_EMAIL_TO": "one@example.org, two@example.org",
    "ALERT_TICKET_WEBHOOK_URL": "http://127.0.0.1:9/tickets",
    "ALERT_INFO_EMAIL_TO": "info@example.org",
    "ALERT_WATCHDOG_WEBHOOK_URL": "http://127.0.0.1:9/alive",
    "ALERT_WEBHOOK_TOKEN_FILE": "/run/secrets/token",
    "ALERT_SMTP_HOST": "mail.example.org:587",
    "ALERT_SMTP_FROM": "perene@example.org",
    "ALERT_SMTP_USER": "perene",
    "ALERT_SMTP_AUTH_FILE": "/run/secrets/smtp",
}


def amtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = shutil.which("amtool")
    if path is None:
        pytest.fail("amtool is missing: run scripts/apt")
    return subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("environment", [{}, EVERYTHING], ids=["nothing set", "everything set"])
def test_what_is_filled_in_is_valid(tmp_path: Path, environment: dict[str, str]) -> None:
    """`amtool check-config`, on the file as it is and with every kind of receiver."""
    done = fill(**environment)
    assert done.returncode == 0, done.stderr
    config = tmp_path / "alertmanager.yml"
    config.write_text(done.stdout)
    checked = amtool("check-config", str(config))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    kinds = ("webhook_configs", "slack_configs", "email_configs")
    assert [done.stdout.count(kind) for kind in kinds] == ([3, 1, 2] if environment else [0, 0, 0])


def test_no_secret_is_copied_into_the_configuration() -> None:
    """Passwords and tokens stay in the files that are named, and whoever hears no page is warned."""
    done = fill(**EVERYTHING)
    assert set(re.findall(r"(\w+_file): '([^']+)'", done.stdout)) == {
        ("credentials_file", "/run/secrets/token"),
        ("api_url_file", "/run/secrets/slack"),
        ("auth_password_file", "/run/secrets/smtp"),
    }
    assert done.stderr == ""
    assert "pages go nowhere" in fill().stderr


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"ALERT_PAGE_EMAIL_TO": "a@example.org"}, "ALERT_SMTP_HOST"),
        ({"ALERT_PAGE_WEBHOOK_URL": "http://x\nroute: {}"}, "line break"),
    ],
    ids=["e-mail without a server", "a line break"],
)
def test_what_cannot_be_right_is_refused(environment: dict[str, str], said: str) -> None:
    """With its name, before Alertmanager is started on half a configuration."""
    done = fill(**environment)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)
def test_every_alert_has_its_route(rule: Rule) -> None:
    """`amtool config routes test`: by severity, and the watchdog to its switch."""
    receiver = "watchdog" if rule.name == "PereneWatchdog" else rule.severity
    done = amtool("config", "routes", "test", f"--config.file={SOURCE / 'alertmanager.yml'}",
                  f"--verify.receivers={receiver}", f"alertname={rule.name}", f"severity={rule.severity}",
                  "model=m")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("severity", "receiver"), [("info", "info"), ("unheard of", "ticket")])
def test_other_alerts_are_routed_too(severity: str, receiver: str) -> None:
    """What nobody thought of is a ticket: nothing is dropped."""
    done = amtool("config", "routes", "test", f"--config.file={SOURCE / 'alertmanager.yml'}",
                  f"--verify.receivers={receiver}", "alertname=Another", f"severity={severity}")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_inhibitions_name_alerts_that_exist() -> None:
    """A renamed alert renames its inhibition."""
    named = set(re.findall(r"Perene\w+", (SOURCE / "alertmanager.yml").read_text()))
    assert named <= {rule.name for rule in rules()}


def alert(name: str, **labels: str) -> dict[str, str]:
    severity = {rule.name: str(rule.severity) for rule in rules()}[name]
    return {"alertname": name, "severity": severity, **labels}


def test_a_page_mutes_the_tickets_of_its_model_and_no_others(tmp_path: Path) -> None:
    """A model without a champion is slow as well: one voice. Another model, and what is about no model, are heard."""
    fired = [
        alert("PereneNoHealthyChampion", model="m"),
        alert("PereneLatencyHigh", model="m"),
        alert("PereneDriftConfirmed", model="m"),
        alert("PereneLatencyHigh", model="other"),
        alert("PereneTwoLeaders"),
        alert("PereneEventsLost", reason="disk"),
        alert("PereneErrorBudgetBurnFast"),
        alert("PereneErrorBudgetBurnSlow"),
        alert("PereneErrorRateHigh", model="other"),
        alert("PereneDataQualityBroken", model="other"),
        alert("PereneDriftConfirmed", model="other"),
        alert("PerenePerformanceDegraded", model="third"),
        alert("PereneEstimatedLossHigh", model="third"),
        alert("PereneEstimatedLossHigh", model="fourth"),
        alert("PereneRetrainBreakerOpen", model="third"),
        alert("PereneRetrainFailing", model="third"),
        alert("PereneRetrainOverdue", model="fourth"),
    ]
    with webhook() as heard:
        filled = fill(ALERT_PAGE_WEBHOOK_URL=f"{heard.url}/page", ALERT_TICKET_WEBHOOK_URL=f"{heard.url}/ticket")
        with alertmanager(tmp_path, faster(filled.stdout)) as base:
            post(base, *fired)
            expected = {
                ("PereneLatencyHigh", "m"), ("PereneDriftConfirmed", "m"), ("PereneErrorBudgetBurnSlow", ""),
                ("PereneErrorRateHigh", "other"), ("PereneDriftConfirmed", "other"),
                ("PereneEstimatedLossHigh", "third"), ("PereneRetrainFailing", "third"),
            }  # fmt: skip
            told = {(a["alertname"], a.get("model", "")) for a in fired} - expected
            assert heard.until(lambda h: {(n, m) for n, m, _ in h.alerts()} >= told), heard.alerts()
            time.sleep(0.5)  # whoever were to be told wrongly would have been told with the others
            assert muted(base) == expected
            assert {(n, m) for n, m, _ in heard.alerts()} == told


def test_one_notification_tells_all_that_is_wrong_with_a_model(tmp_path: Path) -> None:
    """Grouped by model, to the receiver of the severity, with the token that a file holds."""
    token = tmp_path / "token"
    token.write_text("let me in")
    with webhook() as heard:
        filled = fill(ALERT_TICKET_WEBHOOK_URL=f"{heard.url}/ticket", ALERT_WEBHOOK_TOKEN_FILE=str(token))
        with alertmanager(tmp_path / "am", faster(filled.stdout)) as base:
            names = ("PereneLatencyHigh", "PereneLabelsLate")
            post(base, *(alert(name, model=model) for name in names for model in ("a", "b")))
            assert heard.until(lambda h: len(h.alerts()) >= 4), heard.alerts()
    assert [n.alerts for n in sorted(heard.heard, key=lambda n: n.alerts)] == [
        [(name, model, "firing") for name in sorted(names)] for model in ("a", "b")
    ]
    assert {n.path for n in heard.heard} == {"/ticket"}
    assert {n.headers["authorization"] for n in heard.heard} == {"Bearer let me in"}


def test_slack_is_told_what_and_where_to_read_on(tmp_path: Path) -> None:
    """The model and the state as title; severity, name, summary and runbook of each alert as text."""
    address = tmp_path / "slack"
    with webhook() as heard:
        address.write_text(f"{heard.url}/services/secret")
        filled = fill(ALERT_PAGE_SLACK_URL_FILE=str(address), ALERT_PAGE_SLACK_CHANNEL="#models")
        with alertmanager(tmp_path / "am", faster(filled.stdout)) as base:
            post(base, alert("PereneNoHealthyChampion", model="churn"), alert("PereneTwoLeaders"))
            assert heard.until(lambda h: len(h.heard) >= 2)
    told = {n.body["attachments"][0]["title"]: n.body["attachments"][0]["text"] for n in heard.heard}
    assert set(told) == {"[FIRING:1] churn", "[FIRING:1] Perene"}
    assert told["[FIRING:1] churn"] == "page PereneNoHealthyChampion: text\ndocs/runbooks/no-healthy-champion.md\n"
    assert {(n.path, n.body["channel"]) for n in heard.heard} == {("/services/secret", "#models")}


def test_e_mail_names_the_fault_and_the_page_to_read(tmp_path: Path) -> None:
    """To every address, from the configured sender, through a mail server that listens."""
    with mailbox() as (address, letters):
        filled = fill(ALERT_TICKET_EMAIL_TO="one@example.org, two@example.org", ALERT_SMTP_HOST=address,
                      ALERT_SMTP_FROM="perene@example.org", ALERT_SMTP_PLAIN="yes")  # fmt: skip
        with alertmanager(tmp_path, faster(filled.stdout)) as base:
            post(base, alert("PereneLabelsLate", model="churn"))
            deadline = time.monotonic() + 30
            while not letters and time.monotonic() < deadline:
                time.sleep(0.05)
    (letter,) = letters
    assert (letter["From"], letter["To"]) == ("perene@example.org", "one@example.org, two@example.org")
    part = letter.get_body(("html",))
    assert part is not None
    assert {"PereneLabelsLate", "churn", "docs/runbooks/labels-late.md"} <= set(
        re.findall(r"[\w./-]+", part.get_content())
    )
