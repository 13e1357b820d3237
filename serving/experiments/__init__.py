"""Trials over HTTP: what the ledger says of them, and what people ask of them."""
