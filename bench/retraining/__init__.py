"""Which policy of retraining pays: flights, a survey without drift, and streams of known drift."""
