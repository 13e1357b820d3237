"""What a model is: contract, bundle, certificate, versions in MLflow, and the deployment ledger."""

__version__ = "0.1.0"
