"""A LitServe API as its documentation writes one, around ONNX Runtime."""

import os
import sys

import litserve as ls
import numpy as np
import onnxruntime as ort


class Scorer(ls.LitAPI):
    """Rows of values in (the two strings first), numbers out."""

    def setup(self, device: str) -> None:
        """Open the session."""
        self.session = ort.InferenceSession(os.environ["BENCH_MODEL"])

    def decode_request(self, request: dict) -> dict:
        """Rows to tensors."""
        rows = request["rows"]
        return {
            "strings": np.array([row[:2] for row in rows], dtype=object),
            "numbers": np.array([row[2:] for row in rows], dtype=np.float32),
        }

    def predict(self, tensors: dict) -> np.ndarray:
        """Minutes in the air."""
        return self.session.run(["prediction"], tensors)[0]

    def encode_response(self, output: np.ndarray) -> dict:
        """Numbers to JSON."""
        return {"predictions": output.reshape(-1).tolist()}


if __name__ == "__main__":
    ls.LitServer(Scorer(), accelerator="cpu").run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
