"""What the loop was worth: error of the answers served, against version 1 answering all year."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from registry.bundle import Bundle

__all__ = ["markdown", "monthly", "plot", "table"]


def monthly(lake_root: Path | str, first_bundle: Path, *, model: str = "flight-time") -> pd.DataFrame:
    """Month by month, on the same labelled rows: the loop's error and that of the first version.

    Args:
        lake_root: the event lake, `<home>/events`.
        first_bundle: the folder of the bundle that would still serve had nobody ever retrained.

    Returns:
        A row per month of event time (UTC): `month`, `n` (labelled predictions), `loop_on` and `never_retrain`
        (mean absolute error in the label's unit), `versions` (who answered).
    """
    from monitoring.lake.lake import Lake
    from registry.bundle import read_bundle

    rows: pd.DataFrame = Lake(lake_root).joined(model).to_pandas()
    return table(rows, read_bundle(first_bundle))


def table(rows: pd.DataFrame, first: Bundle) -> pd.DataFrame:
    """The same from rows in the lake's joined form: features, `_at`, `_prediction`, `_label`, `_version`."""
    from registry.parity import answers, predict_onnx
    from registry.tensors import pack_frame

    known = rows[rows["_label"].notna() & rows["_prediction"].notna()]
    if known.empty:
        return pd.DataFrame(columns=["month", "n", "loop_on", "never_retrain", "versions"])
    tensors = pack_frame(first.contract, known[first.contract.names])
    static = answers(first.contract, predict_onnx(first.model_bytes(), tensors)).values[:, 0]
    label = known["_label"].to_numpy(dtype=np.float64)
    served = known["_prediction"].to_numpy(dtype=np.float64)
    errors = pd.DataFrame(
        {
            "month": pd.to_datetime(known["_at"], utc=True).dt.strftime("%Y-%m").to_numpy(),
            "version": known["_version"].to_numpy(),
            "loop_on": np.abs(served - label),
            "never_retrain": np.abs(static - label),
        }
    )
    months = errors.groupby("month", sort=True)
    return pd.DataFrame(
        {
            "n": months.size(),
            "loop_on": months["loop_on"].mean(),
            "never_retrain": months["never_retrain"].mean(),
            "versions": months["version"].agg(lambda seen: ", ".join(str(v) for v in sorted(set(seen)))),
        }
    ).reset_index()


def markdown(months: pd.DataFrame, *, unit: str = "minutes") -> str:
    """The table as Markdown; a month in which the loop was worse is marked, not hidden."""
    lines = [
        f"| month | flights | loop on, {unit} | never retrain, {unit} | difference | versions |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in months.to_dict("records"):
        gained = row["never_retrain"] - row["loop_on"]
        note = " (worse)" if gained < 0 else ""
        lines.append(
            f"| {row['month']} | {row['n']:,} | {row['loop_on']:.2f} | {row['never_retrain']:.2f} "
            f"| {-gained:+.2f}{note} | {row['versions']} |"
        )
    return "\n".join(lines) + "\n"


def plot(months: pd.DataFrame, to: Path, *, unit: str = "minutes") -> Path:
    """Save both curves as a PNG at `to`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")  # no pyplot: its state is global and per thread
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(months["month"], months["never_retrain"], "o--", color="#b04a3a", label="never retrain (version 1)")
    axes.plot(months["month"], months["loop_on"], "o-", color="#2a6f97", label="loop on (as served)")
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"mean absolute error, {unit}")
    axes.set_title("NYC flights 2013, by month of departure")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(to, dpi=120)
    return to
