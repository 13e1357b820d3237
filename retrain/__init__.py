"""The retrain room: makes the next version, and decides by evidence whether it may serve."""
