"""Evidently's report of a window beside the reference: it explains; our histograms decide.

The only module that knows Evidently, which takes seconds and 300 MB to import: call `report_in_child`, which runs
`python -m monitoring.evidently_report` and takes the memory back when that ends. One empty, infinite or missing
column makes the whole of Evidently's report fail, so columns are checked first and left out by name.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from registry.contract import Contract
from registry.errors import ConfigInvalid, StoreUnavailable

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS: Final = 20_000
"""More rows cost minutes and gigabytes (1 M rows: 157 s, 3 GB) and change no verdict."""
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
    left_out = {name: reason for name in contract.names if (reason := _unfit(name, reference, current))}
    usable = [c for c in contract.columns if c.name not in left_out]
    if not usable:
        raise ConfigInvalid("no column can be compared", where="columns", expected="values in both frames")
    numbers = [c.name for c in usable if c.dtype in ("float", "int")]
    frames = _prepare(current, usable), _prepare(reference, usable)
    try:
        snapshot = _run(frames, [c.name for c in usable], numbers)
    except Exception:  # a third party's code on arbitrary data: one odd column must not cost the whole report
        left_out |= _probe(frames, [c.name for c in usable], numbers)
        fit = [c.name for c in usable if c.name not in left_out]
        if not fit:
            raise
        snapshot = _run(frames, fit, [name for name in numbers if name in fit])
    to.mkdir(parents=True, exist_ok=True)
    snapshot.save_html(str(to / HTML))
    text = snapshot.json()
    (to / JSON).write_text(text)
    drifted = _verdicts(json.loads(text))
    (to / VERDICTS).write_text(json.dumps({"drifted": drifted, "left_out": left_out}, indent=1, sort_keys=True))
    return ReportFiles(to / HTML, to / JSON, drifted, left_out)


def report_in_child(
    reference: Path, current: Path, contract: Path, to: Path, *, timeout_s: float = 300.0
) -> ReportFiles:
    """Write the report of two Parquet files in a child process that ends.

    Raises:
        StoreUnavailable: the child failed or did not end in time; monitoring goes on without the report.
    """
    command = [sys.executable, "-m", "monitoring.evidently_report", "--reference", str(reference)]
    command += ["--current", str(current), "--contract", str(contract), "--to", str(to)]
    environment = {**os.environ, "DO_NOT_TRACK": "true"}
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=timeout_s, env=environment)
    except subprocess.TimeoutExpired as error:
        raise StoreUnavailable("the report did not end in time", where="report", expected=f"{timeout_s:g} s") from error
    except subprocess.CalledProcessError as error:
        # only the exception's class: its text may hold data values
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:] or [""]
        raise StoreUnavailable("the report failed", where="report", got=last[0].split(":")[0]) from error
    facts = json.loads((to / VERDICTS).read_text())
    return ReportFiles(to / HTML, to / JSON, facts["drifted"], facts["left_out"])


def _unfit(name: str, reference: pd.DataFrame, current: pd.DataFrame) -> str:
    for label, frame in (("reference", reference), ("window", current)):
        if name not in frame.columns:
            return f"missing in the {label}"
        if not frame[name].notna().any():
            return f"all null in the {label}"
    return ""


def _prepare(frame: pd.DataFrame, columns: Sequence[Any]) -> pd.DataFrame:
    """At most `MAX_ROWS` rows, in the plain types that Evidently takes (nullable integers make it fail)."""
    import numpy as np
    import pandas as pd

    if len(frame) > MAX_ROWS:
        frame = frame.sample(MAX_ROWS, random_state=0)
    made = {}
    for column in columns:
        values = frame[column.name]
        if column.dtype in ("float", "int"):
            made[column.name] = values.astype("float64").replace([np.inf, -np.inf], np.nan)
        else:
            made[column.name] = values.astype(object).where(values.notna(), None).map(_text)
    return pd.DataFrame(made).reset_index(drop=True)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _run(frames: tuple[pd.DataFrame, pd.DataFrame], names: list[str], numbers: list[str]) -> Any:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    definition = DataDefinition(
        numerical_columns=[n for n in names if n in numbers],
        categorical_columns=[n for n in names if n not in numbers],
    )
    current, reference = (Dataset.from_pandas(frame[names], data_definition=definition) for frame in frames)
    report = Report([DataDriftPreset(columns=names), DataSummaryPreset(columns=names)], include_tests=True)
    return report.run(current, reference)


def _probe(frames: tuple[pd.DataFrame, pd.DataFrame], names: list[str], numbers: list[str]) -> dict[str, str]:
    """Columns on which Evidently fails by themselves."""
    failed = {}
    for name in names:
        try:
            _run(frames, [name], numbers)
        except Exception as error:  # see write_report
            failed[name] = f"evidently fails on it: {type(error).__name__}"
    return failed


def _verdicts(report: dict[str, Any]) -> dict[str, bool]:
    found = {}
    for test in report["tests"]:
        params = test["metric_config"]["params"]
        if params["type"].endswith(":ValueDrift"):
            found[params["column"]] = test["status"] == "FAIL"
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Read two Parquet files and a contract, write the report."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.evidently_report", description=__doc__)
    for name in ("reference", "current", "contract", "to"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parsed = parser.parse_args(arguments)
    import pandas as pd

    contract = Contract.from_dict(json.loads(parsed.contract.read_text()))
    write_report(pd.read_parquet(parsed.reference), pd.read_parquet(parsed.current), contract, parsed.to)


if __name__ == "__main__":
    main()
