"""Erasing a person's events: from spools and the lake, for good, and provably."""
