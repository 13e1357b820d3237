"""PyTorch modules: their graph answers as they do when they serve."""

from __future__ import annotations

from typing import Any

import pytest

from registry.errors import ConversionRefused
from registry.infer import infer_contract
from tests.integration.export_parity import assert_exact, certificate, frame, needs, numbers


def _network(width: int) -> Any:
    """Left in training: dropout and batch statistics would show."""
    torch = needs("torch")
    torch.manual_seed(0)
    layers = (
        torch.nn.Linear(4, 8),
        torch.nn.BatchNorm1d(8),
        torch.nn.GELU(),
        torch.nn.Dropout(),
        torch.nn.Linear(8, width),
    )
    return torch.nn.Sequential(*layers)


def _rows() -> Any:
    return numbers().drop(columns="large").fillna(0.5)


def test_a_number_a_row() -> None:
    """The module is left in the mode in which it was given."""
    network = _network(1)
    assert_exact(network, _rows(), precisions=("float32", "float64"))
    assert network.training


@pytest.mark.parametrize(("width", "names"), [(3, ["x", "y", "z"]), (1, [0, 1])])
def test_logits_of_classes(width: int, names: list[Any]) -> None:
    """One of each class, or one of the second of two."""
    network = _network(width)
    network.classes_ = names
    assert infer_contract(network, _rows(), "module").output.classes == tuple(names)
    assert_exact(network, _rows(), precisions=("float32",))


def test_several_numbers_a_row() -> None:
    """Their count is an attribute."""
    network = _network(2)
    network.targets = 2
    assert_exact(network, _rows(), precisions=("float32",))


def test_text_is_refused() -> None:
    """A module takes numbers alone."""
    with pytest.raises(ConversionRefused, match="text columns"):
        certificate(_network(1), frame()[["normal", "whole", "flag", "few"]])
