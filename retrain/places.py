"""Where one installation keeps its things; shared by the worker and its children."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from monitoring.lake.lake_root import lake_root

__all__ = ["Places"]


@dataclass(frozen=True, slots=True)
class Places:
    """The embedded layout under `home`; a URL that is given replaces the embedded store."""

    home: Path
    ledger: str = ""
    tracking: str = ""
    signing_key: str = ""
    lake_url: str = ""

    @property
    def ledger_url(self) -> str:
        """The ledger's SQLAlchemy URL."""
        return self.ledger or f"sqlite:///{self.home / 'ledger.db'}"

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking URI."""
        return self.tracking or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """Root of MLflow's artifacts."""
        return self.home / "artifacts"

    @property
    def lake(self) -> Path | str:
        """Root of the event lake: a folder, or a URL."""
        return lake_root(self.home, self.lake_url)

    def bundle(self, model: str, version: int) -> Path:
        """Where serving's puller puts a version's bundle."""
        return self.home / "cache" / "bundles" / model / str(version)

    def run(self, run_id: str) -> Path:
        """Working folder of one retraining: specification, log, result."""
        return self.home / "runs" / run_id

    def report(self, model: str, key: str) -> Path:
        """Folder of one report on a model; `key` says what it is about."""
        return self.home / "reports" / model / key
