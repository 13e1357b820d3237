"""The heavy model: 64 floats through three layers of 2,048, about a millisecond a row; made once below build/bench.

Its weights do not fit into a cache, so a row of a batch takes an eighth of that: what batching is for.
"""

from __future__ import annotations

import json
import shutil
import warnings

from bench.serving.subject import ROOT, SEED, Subject, deploy, made

FOLDER = ROOT / "heavy"
NAME = "heavy"
WIDTH = 64
LAYERS = (2048, 2048, 2048)
ROWS = 2_000
ASKED = 100


def prepare() -> Subject:
    """The subject, made on the first call."""
    subject = Subject(FOLDER, NAME)
    if made(FOLDER):
        return subject
    import numpy as np
    import pandas as pd
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    values = np.random.default_rng(SEED).normal(size=(ROWS + ASKED, WIDTH)).round(5).astype(np.float32)
    frame = pd.DataFrame(values, columns=[f"f{number:02d}" for number in range(WIDTH)])
    target = values[:, :8].sum(axis=1, dtype=np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its cost matters here, not its quality
        model = MLPRegressor(hidden_layer_sizes=LAYERS, max_iter=2, random_state=SEED).fit(
            frame.iloc[:ROWS], target[:ROWS]
        )
    deploy(model, frame.iloc[:ROWS], target[:ROWS], name=NAME, home=subject.home)
    shutil.copy(next((subject.home / "artifacts").rglob("model.onnx")), FOLDER / "model.onnx")
    asked = frame.iloc[ROWS:]
    rows = [
        {name: round(float(value), 5) for name, value in zip(frame.columns, row, strict=True)}
        for row in asked.itertuples(index=False)
    ]
    kept = {"rows": rows, "answers": model.predict(asked).astype(float).tolist(), "nodes": 0}
    (FOLDER / "rows.json").write_text(json.dumps(kept))
    return subject
