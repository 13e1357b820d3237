"""What bounds every server on this machine: a constant from nginx, an echo of our own stack, the engine alone."""
