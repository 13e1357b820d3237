"""Answers requests: FastAPI app, ONNX Runtime engine, routing, limits. Imports no MLflow, pandas or scikit-learn."""
