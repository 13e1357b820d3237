"""Versions that plain MLflow logged: certified in a confined child, registered as bundles."""
