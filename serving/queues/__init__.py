"""What waits for an engine, what goes together, and what is refused in time."""
