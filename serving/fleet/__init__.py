"""Several processes as one server: their port, their numbers, their end."""
