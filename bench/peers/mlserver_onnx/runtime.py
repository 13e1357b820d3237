"""A custom runtime of MLServer, as its documentation writes one, around ONNX Runtime."""

import os

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxRuntime(MLModel):
    """One tensor of numbers and one of strings in, one of numbers out."""

    async def load(self) -> bool:
        """Open the session."""
        self.session = ort.InferenceSession(os.environ["BENCH_MODEL"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Minutes in the air."""
        inputs = {given.name: given for given in payload.inputs}
        numbers = NumpyCodec.decode_input(inputs["numbers"])
        strings = np.array(StringCodec.decode_input(inputs["strings"]), dtype=object).reshape(len(numbers), -1)
        (prediction,) = self.session.run(["prediction"], {"numbers": numbers, "strings": strings})
        output = NumpyCodec.encode_output("prediction", prediction)
        return InferenceResponse(model_name=self.name, outputs=[output])
