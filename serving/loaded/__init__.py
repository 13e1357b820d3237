"""The versions in memory: what is loaded, dropped, kept beside, and fallen back from."""
