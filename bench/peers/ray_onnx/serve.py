"""A Ray Serve deployment as its documentation writes one, around ONNX Runtime: `serve.py PORT`."""

import os
import sys

import numpy as np
import onnxruntime as ort
import ray
from ray import serve
from starlette.requests import Request


# with its default of 5 requests at a time, 64 connections get 8 answers a second and not 128: the rest backs off
@serve.deployment(max_ongoing_requests=100)
class Scorer:
    """Rows of values in (the two strings first), numbers out."""

    def __init__(self) -> None:
        self.session = ort.InferenceSession(os.environ["BENCH_MODEL"])

    async def __call__(self, request: Request) -> dict:
        """Minutes in the air."""
        rows = (await request.json())["rows"]
        strings = np.array([row[:2] for row in rows], dtype=object)
        numbers = np.array([row[2:] for row in rows], dtype=np.float32)
        (prediction,) = self.session.run(["prediction"], {"numbers": numbers, "strings": strings})
        return {"predictions": prediction.reshape(-1).tolist()}


if __name__ == "__main__":
    ray.init(include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Scorer.bind(), blocking=True)
