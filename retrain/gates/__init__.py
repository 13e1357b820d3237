"""Checks on a trained version, each with the numbers it was made on."""
