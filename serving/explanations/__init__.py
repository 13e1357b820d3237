"""Explanations over HTTP: made by a child beside each serving process, which starts when asked and ends when idle."""
