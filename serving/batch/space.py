"""Whether the disk has room for a job, before it is begun."""

from __future__ import annotations

import shutil
from typing import Any

from serving.batch.chunk import Source
from serving.batch.parts import Parts
from serving.batch.refusals import BatchRefused


def needed_bytes(rows: int, columns: int, kept_bytes: int) -> int:
    """What parts and output take together, at most roughly: each row is written twice.

    >>> needed_bytes(1_000_000, 2, 0)
    32000000
    """
    return 2 * (rows * columns * 8 + kept_bytes)


def check_space(parts: Parts, source: Source, schema: Any, input_bytes: int) -> None:
    """Refuse to begin what most likely would not fit.

    Raises:
        BatchRefused: with how much is missing.
    """
    kept = len(source.kept_types)
    # of CSV it is not known; a cell and its comma are rarely shorter than four bytes
    rows = source.total if not source.coerced else input_bytes // (4 * max(1, len(source.schema)))
    share = kept / max(1, len(source.schema))
    needed = needed_bytes(rows, len(schema) - kept, int(input_bytes * share))
    free = shutil.disk_usage(parts.folder).free
    if free < needed:
        raise BatchRefused(
            f"{parts.out}: the disk has no room for it",
            where="--out",
            expected=f"{needed:,} bytes free",
            got=f"{free:,} bytes",
            hint="make room, or write to another disk",
        )
