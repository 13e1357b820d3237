"""Static checks of a graph before anything runs it."""
