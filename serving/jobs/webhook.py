"""Callbacks of jobs: where they may go, by the settings of jobs. The rest is `registry.webhook`."""

from __future__ import annotations

from collections.abc import Collection

from registry import webhook
from registry.webhook import SIGNATURE, Target, Undelivered, is_public, resolve, send, signature
from serving.errors import Malformed

__all__ = ["SIGNATURE", "Target", "Undelivered", "is_public", "resolve", "send", "signature", "target_of"]


def target_of(url: str, hosts: Collection[str]) -> Target:
    """Where a callback goes; `hosts` are those that the operator allows by name.

    Raises:
        Malformed: it is no address that may be called.
    """
    try:
        return webhook.target_of(url, hosts, setting="serving.jobs.webhook_hosts")
    except webhook.AddressRefused as error:
        raise Malformed("this address is not called back", where="callback", expected=error.expected) from None
