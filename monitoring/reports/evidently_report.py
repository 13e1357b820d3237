"""Evidently's report of a window beside the reference: it explains; our histograms decide.

The only module that knows Evidently, which takes seconds and 300 MB to import: only processes that end call it. One
empty, infinite or missing column makes the whole of Evidently's report fail, so columns are checked first and left out
by name. Texts go into a script of its page as they are, and callers choose them: what could end that script is
replaced.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from registry.contract import Column, Contract
from registry.errors import ConfigInvalid

if TYPE_CHECKING:
    import pandas as pd

    Frames = tuple[pd.DataFrame, pd.DataFrame]
    """The window and the reference."""

_Failed = dict[str, str]
MAX_ROWS: Final = 20_000
"""More rows cost minutes and gigabytes (1 M rows: 157 s, 3 GB) and change no verdict."""
MAX_COLUMNS: Final = 100
"""Columns of one report; each costs a plot."""
MAX_LEVELS: Final = 50
"""Levels of a category that are told apart; the others count as one."""
OTHERS: Final = "(other)"
HTML: Final = "report.html"
JSON: Final = "report.json"
VERDICTS: Final = "verdicts.json"


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where the report is, Evidently's verdict per column (True = drift), and columns left out with the reason."""

    html: Path
    json: Path
    drifted: dict[str, bool]
    left_out: dict[str, str]


def write_report(reference: pd.DataFrame, current: pd.DataFrame, contract: Contract, to: Path) -> ReportFiles:
    """Write `report.html`, `report.json` and `verdicts.json` into the folder `to`. Imports Evidently: use a child.

    Raises:
        ConfigInvalid: no column can be compared.
    """
    left_out = {c.name: reason for c in contract.columns if (reason := _unfit(c, reference, current))}
    usable = [c for c in contract.columns if c.name not in left_out]
    left_out |= {c.name: f"more than {MAX_COLUMNS} columns" for c in usable[MAX_COLUMNS:]}
    usable = usable[:MAX_COLUMNS]
    if not usable:
        raise ConfigInvalid("no column can be compared", where="columns", expected="values in both frames")
    shown = shown_names([c.name for c in usable])
    frames = _prepare(current, reference, {shown[c.name]: c for c in usable})
    numbers = [shown[c.name] for c in usable if c.dtype in ("float", "int")]
    snapshot, failed = _guarded(frames, list(shown.values()), numbers)
    names = {safe: name for name, safe in shown.items()}
    left_out |= {names[safe]: reason for safe, reason in failed.items()}
    to.mkdir(parents=True, exist_ok=True)
    snapshot.save_html(str(to / HTML))
    text = snapshot.json()
    (to / JSON).write_text(text)
    drifted = {names[safe]: found for safe, found in _verdicts(json.loads(text)).items()}
    (to / VERDICTS).write_text(json.dumps({"drifted": drifted, "left_out": left_out}, indent=1, sort_keys=True))
    return ReportFiles(to / HTML, to / JSON, drifted, left_out)


def drifted_columns(reference: pd.DataFrame, current: pd.DataFrame, numbers: Sequence[str]) -> dict[str, bool]:
    """Evidently's verdict on each column of two frames of plain floats and texts, without a report.

    A column on which it fails, or that has no values on one side, gets none.
    """
    names = [str(n) for n in current if current[n].notna().any() and reference[n].notna().any()]
    if not names:
        return {}
    try:
        snapshot, _ = _guarded((current, reference), names, list(numbers), summary=False)
    except Exception:  # as in `_guarded`: it fails on every single column
        return {}
    return _verdicts(json.loads(snapshot.json()))


def shown_names(names: Sequence[str]) -> dict[str, str]:
    """A name for the page for each name: no two alike, and none that could end the page's script.

    >>> shown_names(["a", "<b>"])
    {'a': 'a', '<b>': '‹b›'}
    """
    found: dict[str, str] = {}
    for name in names:
        base, number = _harmless(name) or "(unnamed)", 1
        safe = base
        while safe in found.values():
            number += 1
            safe = f"{base} ({number})"
        found[name] = safe
    return found


def _unfit(column: Column, reference: pd.DataFrame, current: pd.DataFrame) -> str:
    if column.policy != "store":
        return f"not kept (policy {column.policy})"
    for label, frame in (("reference", reference), ("window", current)):
        if column.name not in frame.columns:
            return f"missing in the {label}"
        values = frame[column.name]
        if not values.notna().any():
            return f"all null in the {label}"
        if column.dtype in ("float", "int"):
            try:
                finite = _finite(values).notna().any()
            except (TypeError, ValueError):  # another version's column of this name
                return f"another type in the {label}"
            if not finite:
                return f"no finite value in the {label}"
    return ""


def _finite(values: Any) -> Any:
    """Plain floats, which Evidently takes (nullable integers make it fail), without infinities."""
    import numpy as np

    return values.astype("float64").replace([np.inf, -np.inf], np.nan)


def _prepare(current: pd.DataFrame, reference: pd.DataFrame, columns: dict[str, Column]) -> Frames:
    """At most `MAX_ROWS` rows, `MAX_LEVELS` levels, and no text that could leave the page's script."""
    import pandas as pd

    frames = [f.sample(MAX_ROWS, random_state=0) if len(f) > MAX_ROWS else f for f in (current, reference)]
    made: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for name, column in columns.items():
        sides: list[Any] = [frame[column.name] for frame in frames]
        if column.dtype in ("float", "int"):
            sides = [_finite(values) for values in sides]
        else:
            sides = [values.astype(object).where(values.notna(), None).map(_text) for values in sides]
            # levels by the reference first: a window full of new ones must not push the known ones out
            ranked = [*sides[1].value_counts().index[:MAX_LEVELS], *sides[0].value_counts().index[:MAX_LEVELS]]
            kept = set(list(dict.fromkeys(ranked))[:MAX_LEVELS])
            sides = [values.where(values.isna() | values.isin(kept), OTHERS) for values in sides]
        for into, values in zip(made, sides, strict=True):
            into[name] = values
    first, second = (pd.DataFrame(found).reset_index(drop=True) for found in made)
    return first, second


def _text(value: Any) -> str | None:
    return None if value is None else _harmless(str(value))[:60]


def _harmless(text: str) -> str:
    """Evidently writes texts into a script of its page as they are, and callers choose them."""
    return text.translate({ord("<"): "‹", ord(">"): "›", ord("&"): "＆", 0x2028: " ", 0x2029: " "})


def _guarded(frames: Frames, names: list[str], numbers: list[str], *, summary: bool = True) -> tuple[Any, _Failed]:
    """Evidently's result, without the columns on which it fails, and those."""
    try:
        return _run(frames, names, numbers, summary=summary), {}
    except Exception:  # a third party's code on arbitrary data: one odd column must not cost the whole report
        failed = _probe(frames, names, numbers)
        fit = [name for name in names if name not in failed]
        if not fit:
            raise
        return _run(frames, fit, numbers, summary=summary), failed


def _run(frames: Frames, names: list[str], numbers: list[str], *, summary: bool = True) -> Any:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    definition = DataDefinition(
        numerical_columns=[n for n in names if n in numbers],
        categorical_columns=[n for n in names if n not in numbers],
    )
    current, reference = (Dataset.from_pandas(frame[names], data_definition=definition) for frame in frames)
    presets = [DataDriftPreset(columns=names), *([DataSummaryPreset(columns=names)] if summary else [])]
    return Report(presets, include_tests=True).run(current, reference)


def _probe(frames: Frames, names: list[str], numbers: list[str]) -> _Failed:
    """Columns on which Evidently fails by themselves."""
    failed = {}
    for name in names:
        try:
            _run(frames, [name], numbers)
        except Exception as error:  # see _guarded
            failed[name] = f"evidently fails on it: {type(error).__name__}"
    return failed


def _verdicts(report: dict[str, Any]) -> dict[str, bool]:
    found = {}
    for test in report["tests"]:
        params = test["metric_config"]["params"]
        if params["type"].endswith(":ValueDrift"):
            found[params["column"]] = test["status"] == "FAIL"
    return found
