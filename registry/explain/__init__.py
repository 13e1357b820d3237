"""Which columns moved one prediction, and by how much: Shapley values of the very graph that is served.

Used by processes beside the server and the worker, never by the server itself.
"""
