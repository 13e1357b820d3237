"""What the gates found, in the model card of the version that they judged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from typing import Any

from registry.bundle import Bundle, read_bundle, seal
from registry.card import render_card
from retrain.gates.gates import Gate

__all__ = ["carded", "tables"]

MAX_ROWS = 60
"""Of a table; the row of evidence has them all."""


def carded(bundle: Bundle, gates: Sequence[Gate]) -> Bundle:
    """The bundle with verdicts and tables in its card, sealed anew; a bundle without `card.json` as it was."""
    folder = bundle.path
    if not (folder / "card.json").is_file():
        return bundle
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    card["gates"] = tables(gates)
    scratch = folder.with_name(folder.name + ".carded")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(folder, scratch)
    (scratch / "card.json").write_text(json.dumps(card, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (scratch / "card.md").write_text(render_card(card), encoding="utf-8")
    seal(scratch)
    shutil.rmtree(folder)  # a crash between the two lines: the next attempt finds no bundle and makes it again
    os.replace(scratch, folder)
    return read_bundle(folder)


def tables(gates: Sequence[Gate]) -> dict[str, Any]:
    """Verdicts of all gates, and of slices, robustness and calibration the figures behind them."""
    found: dict[str, Any] = {
        "verdicts": [{"gate": g.gate, "verdict": g.verdict, "reason": g.reason} for g in gates],
        "slices": [],
        "robustness": [],
        "calibration": [],
    }
    for gate in gates:
        if gate.gate == "slices":
            found["slices"] = [
                {"column": e["column"], "value": e["value"], "rows": e["rows"], "effect": e.get("mean")}
                for e in gate.inputs.get("slices", [])[:MAX_ROWS]
            ]
        elif gate.gate == "robustness":
            entries = gate.inputs.get("disturbed", {}).items()
            found["robustness"] = [_pair(name, entry) for name, entry in entries]
        elif gate.gate == "calibration":
            found["calibration"] = [_pair(name, entry) for name, entry in gate.inputs.get("errors", {}).items()]
    return found


def _pair(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "champion": entry.get("champion"), "candidate": entry.get("candidate")}
