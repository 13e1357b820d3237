"""Metrics as values, and the alert rules made from them."""
