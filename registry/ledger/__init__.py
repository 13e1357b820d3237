"""The ledger: who serves what, who decided it and on what evidence."""

from registry.ledger.store import LEADER, Deployment, Evidence, Experiment, Ledger, Mode, Run

__all__ = ["LEADER", "Deployment", "Evidence", "Experiment", "Ledger", "Mode", "Run"]
