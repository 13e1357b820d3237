"""Settings of one serve process."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ServingSettings(BaseModel):
    """The `[serving]` table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65_535)
    grpc_port: int | None = Field(
        None, ge=1, le=65_535, description="the Open Inference Protocol over gRPC, on the same address; off without one"
    )
    auth: bool = Field(default=True, description="ask for API keys; only loopback may go without")
    default_model: str | None = Field(None, description="answers bare /predict when several models are deployed")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    allow_pickle: bool = Field(
        default=False, description="run native models kept as pickles, which can do what this server's user can"
    )
    native_seconds: float = Field(10.0, gt=0, description="time a native model has for one request")
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024)
    max_rows: int = Field(10_000, ge=1, description="rows in one request")
    poll_seconds: float = Field(0.1, gt=0, description="how often the hand-over from the puller is looked at")
    seal_rows: int = Field(5_000, ge=1, description="events in the spool that are shipped at once")
    seal_seconds: float = Field(2.0, gt=0, description="or the age, in seconds, of the oldest")
    spool_max_bytes: int = Field(1 << 30, ge=1 << 20)
