"""Monitoring against streams whose truth is known."""
