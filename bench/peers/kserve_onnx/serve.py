"""A custom predictor on KServe's SDK, as its documentation writes one, around ONNX Runtime."""

import argparse
import os

import numpy as np
import onnxruntime as ort
from kserve import Model, ModelServer, model_server


class OnnxModel(Model):
    """Rows of values in (the two strings first), numbers out."""

    def __init__(self, name: str):
        super().__init__(name)
        self.session = None
        self.load()

    def load(self) -> bool:
        """Open the session."""
        self.session = ort.InferenceSession(os.environ["BENCH_MODEL"])
        self.ready = True
        return self.ready

    def predict(self, payload: dict, headers: dict | None = None, response_headers: dict | None = None) -> dict:
        """Minutes in the air."""
        rows = payload["instances"]
        strings = np.array([row[:2] for row in rows], dtype=object)
        numbers = np.array([row[2:] for row in rows], dtype=np.float32)
        (prediction,) = self.session.run(["prediction"], {"numbers": numbers, "strings": strings})
        return {"predictions": prediction.reshape(-1).tolist()}


parser = argparse.ArgumentParser(parents=[model_server.parser])
if __name__ == "__main__":
    parser.parse_args()
    ModelServer().start([OnnxModel("bench")])
