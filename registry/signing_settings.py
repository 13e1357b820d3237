"""Which key signs, and whose signatures count."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class SigningSettings(BaseModel):
    """The `[signing]` table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Path | None = Field(None, description="file of the private key that signs what is logged here")
    trusted: tuple[str, ...] = Field(
        (), description="public keys, or files of them; not empty: only what one of them signed is served"
    )
