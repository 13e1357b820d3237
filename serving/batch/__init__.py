"""Files of rows, answered by a model in a process of its own: streamed, resumable, each row exactly once."""
