"""Whether what clients saw of a ledger can have come about one move at a time: the checker of promise 8.

Every move names the revision it was decided on, so the rows themselves are the only order there can be; what is left
to check is that each attempt, acknowledgement and read fits it, in real time too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Attempt:
    """One client's try: decided on `expected`; `end` and `outcome` are None when it was killed before an answer."""

    op: str
    model: str
    expected: int
    start: int
    end: int | None = None
    outcome: Literal["ok", "conflict"] | None = None
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the ledger in the end, with the attempt that wrote it."""

    model: str
    revision: int
    champion: int
    op: str


@dataclass(frozen=True, slots=True)
class Read:
    """What a reader got as the current deployment; revision 0 is none."""

    model: str
    revision: int
    champion: int
    start: int
    end: int


def check(attempts: Sequence[Attempt], rows: Sequence[Row], reads: Iterable[Read] = ()) -> list[str]:
    """One line for each way in which the history is not linearizable; empty when it is."""
    tries = {attempt.op: attempt for attempt in attempts}
    problems = [f"{op} was attempted twice" for op, n in Counter(a.op for a in attempts).items() if n > 1]
    by_model: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_model[row.model].append(row)
    for model, chain in by_model.items():
        revisions = [row.revision for row in chain]
        if revisions != list(range(1, len(chain) + 1)):
            problems.append(f"the revisions of {model} are not 1, 2, 3, …")
    problems += _acknowledged(attempts, rows)
    for row in rows:
        attempt = tries.get(row.op)
        if attempt is None or attempt.model != row.model:
            problems.append(f"nobody attempted revision {row.revision} of {row.model}")
        elif attempt.expected != row.revision - 1:
            problems.append(f"{row.op} was decided on revision {attempt.expected} and follows {row.revision - 1}")
    for chain in by_model.values():
        problems += _real_time(chain, tries)
    for model, seen in _by_model(reads).items():
        problems += _reads(by_model[model], tries, seen)
    return problems


def _acknowledged(attempts: Sequence[Attempt], rows: Sequence[Row]) -> list[str]:
    """Acknowledged: there exactly once, where it was said; refused: not there; neither: at most once."""
    found: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        found[row.op].append(row.revision)
    problems: list[str] = []
    for attempt in attempts:
        there = found[attempt.op]
        if attempt.outcome == "ok" and there != [attempt.revision]:
            problems.append(f"{attempt.op} was acknowledged as revision {attempt.revision} and is there as {there}")
        if attempt.outcome == "conflict" and there:
            problems.append(f"{attempt.op} was refused and is there as {there}")
        if attempt.outcome is None and len(there) > 1:
            problems.append(f"{attempt.op} is there {len(there)} times")
    return problems


def _real_time(chain: Sequence[Row], tries: dict[str, Attempt]) -> list[str]:
    """A move that was acknowledged before another began comes before it."""
    latest = -1
    problems: list[str] = []
    for row in chain:
        attempt = tries.get(row.op)
        if attempt is None:
            continue
        if attempt.end is not None and attempt.end < latest:
            problems.append(f"{row.op} was over before a move began that precedes it")
        latest = max(latest, attempt.start)
    return problems


def _reads(chain: Sequence[Row], tries: dict[str, Attempt], reads: Sequence[Read]) -> list[str]:
    """A read sees at least what was acknowledged before it began, and nothing that began after it ended."""
    done = sorted((a.end, row.revision) for row in chain if (a := tries.get(row.op)) and a.end is not None)
    ends = [end for end, _ in done]
    newest = [0]
    for _, revision in done:
        newest.append(max(newest[-1], revision))
    rows = {row.revision: row for row in chain}
    problems: list[str] = []
    for read in reads:
        if read.revision < newest[bisect_left(ends, read.start)]:
            problems.append(f"a read of {read.model} saw revision {read.revision}, older than one acknowledged before")
        if read.revision == 0:
            continue
        row = rows.get(read.revision)
        if row is None or row.champion != read.champion:
            problems.append(f"a read of {read.model} saw a revision {read.revision} that is not there")
        elif (attempt := tries.get(row.op)) and attempt.start > read.end:
            problems.append(f"a read of {read.model} saw revision {read.revision} before it was attempted")
    return problems


def _by_model(reads: Iterable[Read]) -> dict[str, list[Read]]:
    found: dict[str, list[Read]] = defaultdict(list)
    for read in reads:
        found[read.model].append(read)
    return found
