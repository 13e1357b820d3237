"""Trials of a candidate: assignment, samples, anytime-valid tests, decisions and their carrying out."""
