"""Worked examples, importable from the repository's root."""
