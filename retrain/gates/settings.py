"""Which gates a trained version must pass, and their limits."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["GateName", "GateSettings"]

GateName = Literal["slices", "calibration", "robustness", "fairness", "latency", "leakage", "alpha"]


class GateSettings(BaseModel):
    """One `[models.NAME.retrain.gates]` table. Certificate, contract and non-inferiority cannot be switched off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    off: tuple[GateName, ...] = Field(default=(), description="gates that are not asked")
    slices: tuple[str, ...] = Field(default=(), description="columns whose every value is a slice, beside the card's")
    automatic_slices: bool = Field(default=True, description="fill up to 20 slices from the contract's columns")
    slice_min_rows: int = Field(default=100, ge=30, description="smaller slices and groups are not judged")
    slice_margin: float = Field(default=0.0, ge=0, lt=0.5, description="bounded loss a slice may lose")
    calibration_limit: float = Field(default=0.10, gt=0, description="relative growth of the calibration's error")
    noise: float = Field(default=0.05, gt=0, le=1, description="standard deviations of noise on numbers")
    missing: float = Field(default=0.10, gt=0, le=1, description="share of rows with a null, or an unseen category")
    robustness_margin: float = Field(default=0.02, gt=0, lt=0.5, description="non-inferiority margin on disturbed rows")
    fairness: tuple[str, ...] = Field(default=(), description="columns whose values are groups to be treated alike")
    fairness_margin: float = Field(default=0.02, gt=0, lt=0.5, description="by which the gap of groups may widen")
    latency_ratio: float = Field(default=1.2, ge=1, description="p99 of one row, in times of the champion's")
    latency_free_ms: float = Field(default=0.5, ge=0, description="a p99 up to this is never too slow")
    size_ratio: float = Field(default=2.0, ge=1, description="size of the model, in times of the champion's")
    self_test_hours: float = Field(default=24.0, ge=0, description="between two tests of the gates; 0: none")
