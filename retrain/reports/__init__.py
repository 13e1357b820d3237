"""Reports of the worker: on findings, on demand, daily and weekly."""
