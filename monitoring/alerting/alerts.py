"""The Prometheus rule file, made from the alerts in `monitoring/alerting/alert_rules.py`.

`python -m monitoring.alerting.alerts --check deploy/prometheus/perene-rules.yml` fails when the file is not current,
`--write` brings it up to date. `--write FILE --set latency_p95_s=0.1 --runbooks https://wiki/runbooks` makes
another one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from monitoring.alerting.alert_limits import Limits, Pace, limits_from
from monitoring.alerting.alert_rules import Rule, rules
from monitoring.alerting.generated import keep_current
from registry.errors import ConfigInvalid

__all__ = ["RUNBOOKS", "main", "render"]

RUNBOOKS = "docs/runbooks"
"""Where the pages are, relative to the repository."""


def render(limits: Limits | None = None, *, pace: Pace | None = None, runbooks: str = RUNBOOKS) -> str:
    """Return the rule file. Scalars are JSON strings, which YAML 1.2 reads as they are.

    Args:
        limits: what is too much.
        pace: how fast time goes; a rehearsal's is faster.
        runbooks: folder or address of the pages.
    """
    lines = [
        "# Made by `python -m monitoring.alerting.alerts --write`; edit monitoring/alerting/alert_rules.py instead.",
        "groups:",
        "  - name: perene",
        "    rules:",
    ]
    for rule in rules(limits, pace):
        lines += _lines(rule, runbooks.rstrip("/"))
    return "\n".join(lines) + "\n"


def _lines(rule: Rule, runbooks: str) -> list[str]:
    return [
        f"      - alert: {rule.name}",
        f"        expr: {json.dumps(rule.expr)}",
        f"        for: {rule.wait}",
        "        labels:",
        f"          severity: {rule.severity}",
        "        annotations:",
        f"          summary: {json.dumps(rule.summary)}",
        f"          runbook_url: {json.dumps(f'{runbooks}/{rule.page}')}",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check a rule file; 0 when it is current, 2 when a number is none of the rules'."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=NUMBER", dest="numbers", help="another limit; repeatable"
    )
    parser.add_argument("--runbooks", default=RUNBOOKS, metavar="ADDRESS", help="folder or address of the pages")
    asked, _ = parser.parse_known_args(argv)
    try:
        limits = limits_from(asked.numbers)
    except ConfigInvalid as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return keep_current(
        "monitoring.alerting.alerts", lambda: render(limits, runbooks=asked.runbooks), argv, options=[parser]
    )


if __name__ == "__main__":
    sys.exit(main())
