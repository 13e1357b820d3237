"""What the event lake is asked: rows in order, by id, by period, by user."""
