"""What is told of each request: its log line, its metrics, its spans."""
