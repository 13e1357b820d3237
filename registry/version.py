"""A registered version, as Python callers get it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from registry.bundle import Bundle
from registry.contract import Contract


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A registered version: its contract, its certificate and how good it was when it was logged."""

    model: str
    version: int
    digest: str
    verdict: str
    certificate: dict[str, Any]
    contract: Contract
    baseline: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, version: int, bundle: Bundle, *, digest: str = "") -> Self:
        """The version that holds `bundle`; `digest` is the registered bundle's where that is an earlier, equal one."""
        return cls(
            bundle.contract.model,
            version,
            digest or bundle.digest,
            bundle.certificate["verdict"],
            bundle.certificate,
            bundle.contract,
            bundle.reference.get("baseline", {}),
        )

    def _repr_html_(self) -> str:
        from registry.html import version_html

        return version_html(self)
