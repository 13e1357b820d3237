"""Hash chains over deployments and evidence, each with a seal, and what is wrong with them.

A row's hash covers its fields and the hash before it: a row changed, swapped, put in or taken out breaks the chain
at that place. The seal counts a chain's rows and runs over their ids and hashes, in the same transaction as the row:
rows missing at the end, which no chain can show, contradict it. Whoever may write the whole database can compute all
of this anew; against them keep a receipt elsewhere (`perene ledger verify --json`) and verify against it later.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, insert, select, update

from registry.ledger.rows import dump
from registry.ledger.tables import seals

Row = RowMapping | Mapping[str, Any]
EVIDENCE: Final = "evidence"
_MOVE: Final = ("model", "revision", "champion", "candidate", "mode", "weight", "salt", "actor", "reason", "at")
_EVIDENCE: Final = ("model", "kind", "body", "at")


def of_model(model: str) -> str:
    """Name of the chain of a model's deployments."""
    return f"deployments/{model}"


def move_hash(previous: str, row: Row) -> str:
    """Hex sha256 of a deployment: the hash before it, its fields, the evidence it names, and routing where it has any.

    Rows without routing hash as they did before there was such a column.
    """
    routing = row.get("routing")
    more = [] if routing is None else [routing]
    return _digest([previous, *(row[name] for name in _MOVE), row["evidence_id"], *more])


def evidence_hash(previous: str, row: Row) -> str:
    """Hex sha256 of a row of evidence."""
    return _digest([previous, *(row[name] for name in _EVIDENCE), None])


def _digest(fields: list[Any]) -> str:
    return hashlib.sha256(dump(fields).encode()).hexdigest()


def next_seal(seal: str, identifier: int, link: str) -> str:
    """The seal after one more row."""
    return hashlib.sha256(f"{seal}:{identifier}:{link}".encode()).hexdigest()


def seal_row(connection: Connection, chain: str, identifier: int, link: str) -> None:
    """Count a row that was just inserted into `chain`; the caller holds the chain."""
    found = connection.execute(select(seals).where(seals.c.chain == chain)).first()
    if found is None:
        connection.execute(insert(seals).values(chain=chain, rows=1, seal=next_seal("", identifier, link)))
        return
    values = {"rows": found.rows + 1, "seal": next_seal(found.seal, identifier, link)}
    connection.execute(update(seals).where(seals.c.chain == chain).values(**values))


class _Chain:
    """One chain as it is walked, oldest row first."""

    def __init__(self) -> None:
        self.rows = 0
        self.revision = 0
        self.tip = ""
        self.seals = [""]

    def follows(self, row: Row, compute: Callable[[str, Row], str]) -> bool:
        """Whether the row's hash, predecessor and revision follow from the row before it; then it is the last one."""
        try:
            wanted = compute(self.tip, row)
        except (TypeError, ValueError):  # a value that we could not have written: bytes, NaN
            wanted = None
        revision = row.get("revision", self.revision + 1)
        good = bool(row["previous"] == self.tip and row["hash"] == wanted and revision == self.revision + 1)
        self.rows += 1
        self.revision = revision if isinstance(revision, int) else self.rows
        self.tip = str(row["hash"])
        self.seals.append(next_seal(self.seals[-1], row["id"], self.tip))
        return good


def chain_problems(
    moves: Sequence[Row], evidence: Sequence[Row], sealed: Sequence[Row], kept: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """One line for each thing that does not hold; rows come in the order of their ids.

    Args:
        moves: the deployments of all models.
        evidence: all evidence.
        sealed: the seals.
        kept: seals that were seen earlier, by chain; each must still be found on the way.
    """
    chains: dict[str, _Chain] = defaultdict(_Chain)
    problems = [
        f"deployment of {row['model']} revision {row['revision']} was altered"
        for row in moves
        if not chains[of_model(row["model"])].follows(row, move_hash)
    ]
    problems += [
        f"evidence {row['id']} was altered" for row in evidence if not chains[EVIDENCE].follows(row, evidence_hash)
    ]
    by_chain = {row["chain"]: row for row in sealed}
    for chain in sorted({*chains, *by_chain}):
        problems += _against_seal(chain, chains[chain], by_chain.get(chain))
    for chain, seal in sorted(kept.items()):
        walked = chains[chain]
        if walked.rows < seal["rows"]:
            problems.append(f"{chain}: {seal['rows'] - walked.rows} rows of the receipt are missing")
        elif walked.seals[seal["rows"]] != seal["seal"]:
            problems.append(f"{chain}: the {seal['rows']} rows of the receipt were rewritten")
    return problems


def _against_seal(name: str, chain: _Chain, seal: Row | None) -> list[str]:
    if seal is None:
        return [f"{name}: its seal is missing"]
    if seal["rows"] != chain.rows:
        return [f"{name}: {chain.rows} rows where {seal['rows']} were sealed"]
    if seal["seal"] != chain.seals[-1]:
        return [f"{name}: its rows are not those that were sealed"]
    return []
