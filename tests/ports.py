"""Ports for servers that a test starts: free ones, that stay free until the server listens, and between two of them."""

from __future__ import annotations

import os
import socket
from itertools import count

_FIRST, _EACH = 12_000, 2_500
"""Below those that the kernel gives to whoever asks for any port, and a share of its own for each process of a run."""
_SHARE = _FIRST + _EACH * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8)
_numbers = count(os.getpid())


def free_port() -> int:
    """A loopback port that nobody listens on, and that no test of this run is given again soon."""
    for number in _numbers:
        port = _SHARE + number % _EACH
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError
