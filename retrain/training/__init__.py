"""A training run: its windows, its data, its child and its records."""
