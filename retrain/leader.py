"""Any number of workers may run; one leads. Its token fences every write, so a stalled leader cannot act."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Leader", "Leases"]

LEASE = "leader"


class Leases(Protocol):
    """The part of the ledger that hands out leases."""

    def acquire(self, name: str, holder: str, ttl_seconds: float) -> int | None:
        """A fencing token, or None while another holds it."""
        ...

    def renew(self, name: str, holder: str, token: int, ttl_seconds: float) -> bool:
        """Extend; False when it was lost."""
        ...

    def release(self, name: str, holder: str, token: int) -> None:
        """Give it back."""
        ...


@dataclass
class Leader:
    """One worker's claim. `token` is None while another one leads. Safe to use from two threads.

    `holder` must be unique to the process: the ledger hands the lease again to the same holder.
    """

    leases: Leases
    holder: str
    ttl_s: float = 10.0
    token: int | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def claim(self) -> int | None:
        """Renew the lease, or take it when it is free."""
        with self._lock:
            if self.token is not None and not self.leases.renew(LEASE, self.holder, self.token, self.ttl_s):
                self.token = None
                return None  # drop what was remembered before claiming again
            if self.token is None:
                self.token = self.leases.acquire(LEASE, self.holder, self.ttl_s)
            return self.token

    def keep(self) -> None:
        """Renew only: called beside a long tick, so that work does not cost the lease."""
        with self._lock:
            if self.token is not None and not self.leases.renew(LEASE, self.holder, self.token, self.ttl_s):
                self.token = None

    def drop(self) -> None:
        """Forget the token after a write was fenced."""
        with self._lock:
            self.token = None

    def release(self) -> None:
        """Let another worker lead at once."""
        with self._lock:
            if self.token is not None:
                self.leases.release(LEASE, self.holder, self.token)
                self.token = None
