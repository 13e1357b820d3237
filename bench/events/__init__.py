"""Benchmarks of the event log."""
