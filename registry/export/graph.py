"""What every exported graph shares: a name, the same bytes for equal models, a last check."""

from __future__ import annotations

import onnx

from registry.contract import Contract


def finish(model: onnx.ModelProto, contract: Contract) -> bytes:
    """Checked bytes of a graph whose inputs and outputs are the contract's; equal models are equal bytes."""
    model.producer_name = "perene"
    model.graph.name = contract.model
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
