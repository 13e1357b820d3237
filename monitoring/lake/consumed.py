"""Which files of the lake a monitor has folded, in a few numbers: names of the newest, a mark for the rest.

The files of one boot, day, kind and set of versions appear in the order of their numbers. So once all up to one of
them are folded, its last number says it all, also when upkeep has merged them, and when a crash writes one again.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["MERGED", "Consumed", "spool_range", "version_suffix", "versions_of"]

MERGED = "merged-"
"""How names of merged files begin: what they hold was folded before it was merged, so they never count as new."""
_NAME = re.compile(r"(?P<boot>.+)-(?P<first>\d+)-(?P<last>\d+)(?P<versions>(-v\d+)*)\.parquet")

_VERSIONS = re.compile(r"(-v\d+)+(?=\.parquet$)")
_VERSION = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Consumed:
    """Names as `kind=K/date=D/file`; `marks` are the last numbers by `kind=K/date=D/boot[-vN…]`."""

    names: frozenset[str] = frozenset()
    marks: Mapping[str, int] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        if name in self.names or name.rpartition("/")[2].startswith(MERGED):
            return True
        line, last = _place(name)
        return 0 < last <= self.marks.get(line, 0)

    def add(self, names: Iterable[str]) -> Consumed:
        """The same and these."""
        return Consumed(self.names.union(names), self.marks)

    def settled(self, listing: Iterable[str]) -> Consumed:
        """The same in fewer words.

        Args:
            listing: the names of all files, looked up after those of `names` had been: what is older than one of them
                is then among it, whatever order the store lists files in.
        """
        lines: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for name in {*self.names, *listing}:
            line, last = _place(name)
            if last:
                lines[line].append((last, name))
        marks = dict(self.marks)
        for line, files in lines.items():
            for last, name in sorted(files):
                if name not in self:
                    break
                marks[line] = max(last, marks.get(line, 0))
        left = frozenset(name for name in self.names if not 0 < _place(name)[1] <= marks.get(_place(name)[0], 0))
        return Consumed(left, marks)


def spool_range(file: str) -> tuple[str, int, int] | None:
    """Boot, first and last number of the spool rows that a shipped file holds, by its name."""
    found = _NAME.fullmatch(file)
    return (found["boot"], int(found["first"]), int(found["last"])) if found else None


def version_suffix(versions: Iterable[int]) -> str:
    """How the name of a file ends that holds answers of these versions.

    >>> version_suffix([1, 2])
    '-v1-v2'
    """
    return "".join(f"-v{version}" for version in versions)


def versions_of(file: str) -> tuple[int, ...]:
    """The versions whose answers a file holds, by its name; none of labels and outcomes.

    >>> versions_of("b-1-5-v1-v2.parquet"), versions_of("b-1-5.parquet")
    ((1, 2), ())
    """
    ending = _VERSIONS.search(file)
    return tuple(map(int, _VERSION.findall(ending[0]))) if ending else ()


def _place(name: str) -> tuple[str, int]:
    """The line of files that a name belongs to, and its last number; 0 of a name that is not the shipper's."""
    folder, _, file = name.rpartition("/")
    found = _NAME.fullmatch(file)
    if found is None or file.startswith(MERGED):
        return name, 0
    return f"{folder}/{found['boot']}{found['versions']}", int(found["last"])
