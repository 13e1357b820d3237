"""Perene keeps classic ML models alive in production: log, certify, serve, watch, retrain, promote."""
