"""The original estimator, run in a process of its own."""
