"""Where graphs run: providers, shapes, threads, memory."""
