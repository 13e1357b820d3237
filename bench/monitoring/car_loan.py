"""M7: estimated quality on NannyML's car-loan data, which its wheel bundles; no part of Perene depends on it.

bench/monitoring/setup
python -m bench.monitoring.car_loan --save
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.monitoring.keep import keep
from monitoring.settings import MonitoringSettings
from monitoring.watching.estimated import FINE, counted, estimate
from monitoring.watching.quality import null_level
from registry.contract import Output
from registry.estimate import build_estimate
from registry.loss import bounded_loss

DATA = "nannyml/datasets/data/synthetic_car_loan_{}.csv"
WHEEL = Path("build/bench/wheels/nannyml-0.13.1-py3-none-any.whl")
CHUNK = 5_000
OUTPUT = Output("classification", ("0", "1"))


def auc(truth: npt.NDArray[Any], score: npt.NDArray[Any]) -> float:
    """Area under the curve, by ranks."""
    from scipy.stats import rankdata

    ranks, positive = rankdata(score), int(truth.sum())
    return float((ranks[truth == 1].sum() - positive * (positive + 1) / 2) / (positive * (len(truth) - positive)))


def chunks(wheel: Path) -> list[dict[str, Any]]:
    """Estimated and realised figures of the ten chunks of the period that is analysed."""
    import pandas as pd

    with zipfile.ZipFile(wheel) as archive:
        frames = {
            part: pd.read_csv(io.BytesIO(archive.read(DATA.format(part))))
            for part in ("reference", "analysis", "analysis_target")
        }
    reference, analysis = frames["reference"], frames["analysis"].copy()
    analysis["repaid"] = frames["analysis_target"]["repaid"].to_numpy()
    score, truth = (reference[name].to_numpy() for name in ("y_pred_proba", "repaid"))
    both = np.column_stack([1 - score, score])
    losses = bounded_loss(OUTPUT, both, truth.astype(int).astype(str).astype(object), 1.0)
    curve = build_estimate(OUTPUT, {}, {}, both, truth, losses)
    assert curve is not None
    settings = MonitoringSettings()
    quality = {"n": len(losses), "loss": losses.mean(), "loss_sd": losses.std(ddof=1)}
    level = null_level(quality, settings.tolerance, settings.tolerance_relative)
    assert level is not None
    # NannyML's own limits: three standard deviations of the reference's chunks around their mean
    old = [accuracy(truth[i : i + CHUNK], score[i : i + CHUNK]) for i in range(0, len(truth), CHUNK)]
    limits = np.mean(old) - 3 * np.std(old), np.mean(old) + 3 * np.std(old)
    rows = []
    for i in range(0, len(analysis), CHUNK):
        part = analysis.iloc[i : i + CHUNK]
        p, y = part["y_pred_proba"].to_numpy(), part["repaid"].to_numpy()
        found = estimate(curve, {FINE: counted(curve, p) or []})
        assert found is not None
        pair = np.column_stack([1 - p, p])
        loss = bounded_loss(OUTPUT, pair, y.astype(int).astype(str).astype(object), 1.0)
        realised = {"accuracy": accuracy(y, p), "roc_auc": auc(y, p), "loss": float(loss.mean())}
        rows.append(
            {
                "realised": realised,
                "estimated": {**found.metrics, "loss": found.loss, "lower": found.lower, "upper": found.upper},
                "alarm": found.lower > level,
                "alarm_realised": realised["loss"] > level,
                "outside": not limits[0] <= found.metrics["accuracy"] <= limits[1],
                "outside_realised": not limits[0] <= realised["accuracy"] <= limits[1],
            }
        )
    return rows


def accuracy(truth: npt.NDArray[Any], score: npt.NDArray[Any]) -> float:
    """Share of right classes at one half."""
    return float(((score >= 0.5) == (truth == 1)).mean())


def main() -> None:
    """Print the errors, save them if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, nargs="?", default=WHEEL)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    rows = chunks(arguments.wheel)
    error = {
        name: float(np.mean([abs(r["estimated"][name] - r["realised"][name]) for r in rows]))
        for name in ("accuracy", "roc_auc", "loss")
    }
    same = {k: sum(r[k] == r[f"{k}_realised"] for r in rows) for k in ("alarm", "outside")}
    alarms = {k: sum(r[k] for r in rows) for k in ("alarm", "alarm_realised", "outside", "outside_realised")}
    row = {"chunks": len(rows), "mae": error, "same": same, **alarms}
    print(json.dumps(row))
    if arguments.save:
        keep("m7", [row])


if __name__ == "__main__":
    main()
