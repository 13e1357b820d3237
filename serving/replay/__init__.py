"""Recorded traffic, answered again by another version, and the answers compared."""
