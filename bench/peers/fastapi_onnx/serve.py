"""FastAPI and ONNX Runtime as tutorials put them together: pydantic in, pydantic out, the default session."""

import os

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
session = ort.InferenceSession(os.environ["BENCH_MODEL"])


class Row(BaseModel):
    """One flight."""

    carrier: str
    origin: str
    weekday: float
    scheduled_departure: float
    scheduled_minutes: float
    distance: float
    temp: float
    dewp: float
    humid: float
    wind_dir: float
    wind_speed: float
    wind_gust: float
    precip: float
    pressure: float
    visib: float
    day_sin: float
    day_cos: float
    week_sin: float
    week_cos: float
    spread: float


class Rows(BaseModel):
    """The request."""

    rows: list[Row]


class Predictions(BaseModel):
    """The answer."""

    predictions: list[float]


@app.post("/predict")
def predict(request: Rows) -> Predictions:
    """Minutes in the air."""
    rows = [list(row.model_dump().values()) for row in request.rows]
    strings = np.array([row[:2] for row in rows], dtype=object)
    numbers = np.array([row[2:] for row in rows], dtype=np.float32)
    (prediction,) = session.run(["prediction"], {"numbers": numbers, "strings": strings})
    return Predictions(predictions=prediction.reshape(-1).tolist())
