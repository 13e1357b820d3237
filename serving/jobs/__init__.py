"""Work that is answered later: files, and predictions that can wait. One SQLite file of a machine holds the queue."""
