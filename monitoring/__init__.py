"""What happened to a model: its events, drift, quality, metrics and alerts."""
