-- MLflow keeps its tables apart from the ledger.
CREATE DATABASE mlflow;
