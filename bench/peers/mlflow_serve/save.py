"""The fitted pipeline as an MLflow model with a signature: `save.py PIPELINE ROWS TO`."""

import json
import shutil
import sys

import joblib
import mlflow.sklearn
import pandas as pd
from mlflow.models import infer_signature

pipeline, rows, to = sys.argv[1:]
model = joblib.load(pipeline)
with open(rows) as file:
    frame = pd.DataFrame(json.load(file)["rows"])
floats = frame.select_dtypes("number").columns
frame = frame.astype(dict.fromkeys(floats, "float32"))
shutil.rmtree(to, ignore_errors=True)
mlflow.sklearn.save_model(
    model,
    to,
    signature=infer_signature(frame, model.predict(frame)),
    pip_requirements=["scikit-learn"],
    serialization_format="cloudpickle",
)
