"""A BentoML service as its documentation writes one, around ONNX Runtime."""

import os

import bentoml
import numpy as np
import onnxruntime as ort


@bentoml.service
class Scorer:
    """Rows of values in (the two strings first), numbers out."""

    def __init__(self) -> None:
        self.session = ort.InferenceSession(os.environ["BENCH_MODEL"])

    @bentoml.api
    def predict(self, rows: list[list[str | float]]) -> list[float]:
        """Minutes in the air."""
        strings = np.array([row[:2] for row in rows], dtype=object)
        numbers = np.array([row[2:] for row in rows], dtype=np.float32)
        (prediction,) = self.session.run(["prediction"], {"numbers": numbers, "strings": strings})
        return prediction.reshape(-1).tolist()
