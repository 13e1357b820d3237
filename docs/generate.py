"""The tables of the reference that are made from code: `python docs/generate.py --check` or `--write`.

Each table stands between `<!-- made: NAME -->` and `<!-- end -->`; the text around it is written by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from monitoring.alerting.catalogue import SERVE, STAGES, STATES, WORKER, Metric
from monitoring.settings import MonitoringSettings
from perene.config import Settings
from perene.usage_settings import UsageSettings
from registry.policy import LedgerPolicy
from registry.signing_settings import SigningSettings
from retrain.gates.settings import GateSettings
from retrain.settings import RetrainSettings
from retrain.trials.trial_settings import GuardSettings, OutcomeSettings, TrialSettings
from serving.settings import (
    ExplainSettings,
    GpuSettings,
    HookSettings,
    JobSettings,
    LimitSettings,
    QueueSettings,
    ServingSettings,
    WebSettings,
)

ROOT: Final = Path(__file__).parent / "reference"
MARK: Final = re.compile(r"(<!-- made: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
UNTIL: Final = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
MEANINGS: Final = {
    "Settings.home": "folder of everything embedded: stores, spool, event lake, cache, logs",
    "Settings.ledger_url": "SQLAlchemy URL of the ledger; empty: SQLite in `home`",
    "Settings.tracking_uri": "MLflow's tracking URI; empty: SQLite in `home`",
    "Settings.worker_host": "address of the worker's `/metrics`",
    "Settings.worker_port": "port of the worker's `/metrics`",
    "Settings.serving": "the table `[serving]`",
    "Settings.models": "one table `[models.NAME]` for each model",
    "ServingSettings.host": "address of the public port; beyond loopback only with `auth`",
    "ServingSettings.port": "the public port",
    "ServingSettings.device": "where graphs run; `cuda` refuses to start without a GPU, `auto` falls back and says so",
    "ServingSettings.max_body_bytes": "bytes of one request's body",
    "ServingSettings.spool_max_bytes": "bytes of events on disk that are not yet in the lake",
    "MonitoringSettings.of": "windows among which `confirm` are counted",
    "RetrainSettings.windows": "spans to train on, each a candidate: a duration, `since-drift` or `expanding`",
    "RetrainSettings.holdout": "the newest labelled rows, kept for judging the candidates",
    "RetrainSettings.maturity": "rows younger than this are left out, because their labels may still come",
    "RetrainSettings.min_labels": "rows below which nothing is trained or judged",
    "RetrainSettings.alpha": "error rate of the gate",
    "RetrainSettings.cooldown": "pause after a run or a trial; doubled by each run without a candidate, up to 8 times",
    "RetrainSettings.clock": "`event`: that of the latest events, strays aside; `wall`: the machine's clock",
    "RetrainSettings.seed": "seed of the sample taken when there are more than `max_rows`",
    "RetrainSettings.training_timeout_s": "seconds a run may take",
    "RetrainSettings.training_memory_mb": "memory a run may take",
}


def settings_table(model: type[BaseModel]) -> str:
    """One row for each key of a table of `perene.toml`."""
    rows = [
        (f"`{name}`", _kind(field), _default(field), field.description or MEANINGS[f"{model.__name__}.{name}"])
        for name, field in model.model_fields.items()
    ]
    return _table(("key", "type", "default", "meaning"), rows)


def metrics_table(metrics: Sequence[Metric]) -> str:
    """One row for each metric family of a process."""
    rows = [
        (f"`{m.name}`", m.kind, ", ".join(f"`{label}`" for label in m.labels), m.unit, f"{m.help}.{_buckets(m)}")
        for m in metrics
    ]
    return _table(("metric", "type", "labels", "unit", "meaning"), rows)


def values_table(values: dict[str, int]) -> str:
    """Numbers of a gauge that stands for words."""
    return _table(("value", "word"), [(str(number), word) for word, number in values.items()])


MADE: Final[dict[str, Callable[[], str]]] = {
    "serve metrics": lambda: metrics_table(SERVE),
    "worker metrics": lambda: metrics_table(WORKER),
    "states": lambda: values_table(STATES),
    "stages": lambda: values_table(STAGES),
    "settings": lambda: settings_table(Settings),
    "policy settings": lambda: settings_table(LedgerPolicy),
    "signing settings": lambda: settings_table(SigningSettings),
    "usage settings": lambda: settings_table(UsageSettings),
    "serving settings": lambda: settings_table(ServingSettings),
    "limit settings": lambda: settings_table(LimitSettings),
    "queue settings": lambda: settings_table(QueueSettings),
    "gpu settings": lambda: settings_table(GpuSettings),
    "web settings": lambda: settings_table(WebSettings),
    "job settings": lambda: settings_table(JobSettings),
    "hook settings": lambda: settings_table(HookSettings),
    "explain settings": lambda: settings_table(ExplainSettings),
    "monitoring settings": lambda: settings_table(MonitoringSettings),
    "retrain settings": lambda: settings_table(RetrainSettings),
    "gate settings": lambda: settings_table(GateSettings),
    "trial settings": lambda: settings_table(TrialSettings),
    "guard settings": lambda: settings_table(GuardSettings),
    "outcome settings": lambda: settings_table(OutcomeSettings),
}


def render(text: str) -> str:
    """`text` with every marked table made anew."""
    return MARK.sub(lambda found: f"{found[1]}\n{MADE[found[2]]()}\n{found[3]}", text)


def _kind(field: FieldInfo) -> str:
    limits = [f"{sign} {getattr(m, name)}" for m in field.metadata for name, sign in UNTIL.items() if hasattr(m, name)]
    return ", ".join([_name(field.annotation), *limits])


def _name(kind: Any) -> str:
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _name(inside[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inside)
    if origin in (Union, UnionType):
        return " or ".join(_name(part) for part in inside if part is not NoneType) + " or none"
    if origin is tuple:
        return f"list of {_name(inside[0])}"
    if origin is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return "table"
    return {str: "text", bool: "boolean", timedelta: "duration", Path: "path"}.get(kind) or str(kind.__name__)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, BaseModel | dict):
        return "–"
    if isinstance(value, timedelta):
        return f"`{value.days}d`"
    if isinstance(value, tuple):
        return f"`{', '.join(map(str, value))}`" if value else "none"
    return {"None": "none", "": "empty", "True": "`true`", "False": "`false`"}.get(str(value), f"`{value}`")


def _buckets(metric: Metric) -> str:
    return f" Buckets: {', '.join(f'{edge:g}' for edge in metric.buckets)}." if metric.buckets else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check or write the pages; 0 when they are current."""
    parser = argparse.ArgumentParser(prog="python docs/generate.py", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="exit 1 when a page is not current")
    action.add_argument("--write", action="store_true", help="bring the pages up to date")
    options = parser.parse_args(arguments)
    stale = [page for page in sorted(ROOT.glob("*.md")) if render(page.read_text()) != page.read_text()]
    for page in stale:
        if options.write:
            page.write_text(render(page.read_text()))
        else:
            sys.stderr.write(f"{page} is not current: run `python docs/generate.py --write`\n")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
