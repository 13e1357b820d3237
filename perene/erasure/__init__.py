"""`perene erase`: every place of an installation where a person's events can be, and the receipt."""
