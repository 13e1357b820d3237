"""What an owner said of a model holds for the versions that retraining makes of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from registry.archive import FOLDER
from registry.log import Facts, build_bundle
from registry.mlflow_store import Store
from registry.signing import load_signer, load_verifier, new_key, verify_bundle
from retrain.places import Places
from retrain.settings import RetrainSettings
from retrain.training.bundling import build
from retrain.training.registering import register
from retrain.training.select import Contender
from retrain.training.spec import Spec
from tests.conftest import Toy


def test_a_retrained_version_keeps_card_policies_and_signature(regression: Toy, home: Path, tmp_path: Path) -> None:
    """Owner, purpose, slices and policies are the champion's; lineage, original and signature its own."""
    public = new_key(tmp_path / "key.pem")
    champion = build_bundle(
        regression.estimator,
        regression.X,
        regression.y,
        name="toy",
        to=tmp_path / "champion",
        facts=Facts(owner="ops", purpose="minutes", ethics="none", slices=["hour"]),
        policies={"carrier": "hash"},
    )
    rows = regression.X.assign(
        target=regression.y, _at=pd.date_range("2026-01-01", periods=len(regression.X), freq="min", tz="UTC")
    )
    spec = Spec("run-1", "toy", str(home), "", "", "drift", datetime(2026, 2, 1, tzinfo=UTC), 7, [], {"seed": 1})
    settings = RetrainSettings(trainer="a:b", target="target")
    winner = Contender("90d", np.zeros(500), len(rows), regression.estimator, train=rows)
    (tmp_path / "run").mkdir()
    steps: list[bool] = []
    for _ in range(2):  # a second attempt finds the first one's bundle, and builds it no second time
        made = build(
            spec,
            settings,
            champion,
            winner,
            rows.tail(500),
            tmp_path / "run",
            8.0,
            lambda _step, facts: steps.append("resumed" in facts),
        )
    assert steps == [False, True]
    card = json.loads((made.path / "card.json").read_text())
    assert (card["owner"], card["purpose"], card["ethics"]) == ("ops", "minutes", "none")
    assert card["lineage"] == {"parent version": "7", "run": "run-1", "reason": "drift"}
    assert {part["column"] for part in card["baseline"]["slices"]} == {"hour"}
    assert {c.name: c.policy for c in made.contract.columns}["carrier"] == "hash"
    assert "carrier" not in made.reference["columns"]
    assert (tmp_path / "run" / FOLDER).is_dir()
    version = register(spec, Places(home, signing_key=str(tmp_path / "key.pem")), made.path)
    store = Store(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts")
    got = store.download("toy", version, tmp_path / "got")
    assert verify_bundle(got, [load_verifier(public.text)]) == load_signer(tmp_path / "key.pem").key_id
    assert store.original("toy", version, tmp_path / "original") is not None
