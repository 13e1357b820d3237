"""`python -m grafana --check FILE` or `--write FILE`: keep the dashboard file current."""

from __future__ import annotations

import sys

from grafana.dashboard import render
from monitoring.alerting.generated import keep_current

if __name__ == "__main__":
    sys.exit(keep_current("grafana", render))
