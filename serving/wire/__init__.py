"""Requests and answers as bytes: the fast lane, the bounds of HTTP, bodies and refusals."""
