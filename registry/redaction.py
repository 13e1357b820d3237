"""Secrets out of texts: the last net under what is logged, for texts of other people's making."""

from __future__ import annotations

import re
from typing import Final

_SECRETS: Final = (
    (re.compile(r"(?<=://)[^/\s\"'<>@]+@"), "***@"),  # the account in a URL
    (re.compile(r"\bprn_[0-9A-Za-z]+_[0-9A-Za-z_-]+"), "prn_***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',]+"), r"\1 ***"),
    (re.compile(r"(?i)\b(password|passwd|pwd|secret|token)=[^\s\"'&;,]+"), r"\1=***"),
)


def redacted(text: str) -> str:
    """`text` without accounts of URLs, API keys, credentials of headers and passwords of connection strings.

    >>> redacted("cannot reach postgresql://me:pass@db/perene")
    'cannot reach postgresql://***@db/perene'
    """
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text
