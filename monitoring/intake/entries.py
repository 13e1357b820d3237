"""Events that wait for their commit: what the journal keeps of them, and the rows of the spool that they become."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, cast

import msgspec

from monitoring.intake.blocks import Answered, block_of_answers, by_policy
from monitoring.intake.events import Event, encoder
from monitoring.intake.journal import Kind, Record
from monitoring.intake.pseudonyms import Digest, plain
from registry.contract import Contract

__all__ = ["Entry", "alike", "record", "restored", "rows"]

Row = tuple[int, bytes]
"""A row of the spool: the number of its first event, and an encoded event or block of them."""
Contracts = dict[tuple[str, int], Contract]
_ENCODER = encoder()
_LIST = msgspec.msgpack.Decoder(list[Any])
_RAW = msgspec.msgpack.Decoder(list[msgspec.Raw])


class Entry(msgspec.Struct, gc=False):
    """Events of one append, with consecutive sequence numbers; `done` is set for a durable one.

    `journaled` says that the journal has them too; `body` is the row of the spool, where the journal needed it before.
    """

    first: int
    events: Answered | Sequence[Event]
    done: Future[None] | None
    journaled: bool = False
    body: bytes | None = None


def record(events: Answered | Sequence[Event], digest: Digest = plain) -> tuple[Kind, bytes] | None:
    """What the journal keeps of events; None where that depends on their numbers, or they cannot be written."""
    try:
        if not isinstance(events, Answered):
            return Kind.EVENTS, _ENCODER.encode(list(events))
        a, rows, entity = events, events.rows, events.entity
        if type(rows) is not list or entity or a.contract.hides:
            if a.alone:
                return None
            entity, rows = by_policy(a, digest)
        about = (a.contract.model, a.version, a.arm, a.at, a.received, entity, a.key, a.latency_ms)
        return Kind.ANSWERED, _ENCODER.encode((*about, a.ids, rows, a.predictions, a.values, a.deployment, a.assigned))
    # any type may sit among features, and encoders raise what they like: the commit says what is wrong with it
    except Exception:
        return None


def block(first: int, events: Answered | Sequence[Event], digest: Digest = plain) -> bytes | None:
    """The row of the spool that many rows of one request become; None where they become another, or none."""
    if not isinstance(events, Answered) or not events.alone:
        return None
    try:
        return _ENCODER.encode(block_of_answers([first], [events], digest))
    except Exception:  # as above
        return None


def rows(entries: Sequence[Entry], digest: Digest = plain) -> list[Row]:
    """The rows of the spool that entries of one group of `alike` become."""
    if entries[0].body is not None:
        return [(entries[0].first, entries[0].body)]
    answers = [entry.events for entry in entries if isinstance(entry.events, Answered)]
    if answers:
        made = block_of_answers([entry.first for entry in entries], answers, digest)
        return [(entries[0].first, _ENCODER.encode(made))]
    events = ((e.first + n, event) for e in entries for n, event in enumerate(cast("Sequence[Event]", e.events)))
    return [(number, _ENCODER.encode(event)) for number, event in events]


def alike(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Entries that become one block, in order; single events stay alone, and so do many rows that came by columns."""
    found: list[list[Entry]] = []
    blocks: dict[tuple[str, int, bool], list[Entry]] = {}
    for entry in entries:
        events = entry.events
        if not isinstance(events, Answered) or events.alone:
            found.append([entry])
            continue
        key = (events.contract.model, events.version, events.arm == "shadow")
        block = blocks.get(key)
        if block is None:
            block = blocks[key] = []
            found.append(block)
        block.append(entry)
    return found


def restored(records: Sequence[Record], contracts: Contracts) -> tuple[list[Row], int]:
    """The rows of the spool that records become, and the events in them; what cannot become a row is left out."""
    found: list[Row] = []
    count = 0
    answered: dict[tuple[str, int, bool], list[tuple[int, Answered, str]]] = {}
    for kept in records:
        if kept.kind is Kind.BLOCK:
            found.append((kept.first, kept.payload))
        elif kept.kind is Kind.EVENTS:
            found += [(kept.first + n, bytes(raw)) for n, raw in enumerate(_RAW.decode(kept.payload))]
        elif kept.kind is Kind.ANSWERED:
            model, version, arm, at, received, entity, key, latency_ms, *row = _LIST.decode(kept.payload)
            contract = contracts.get((model, version))
            if contract is not None:
                made = Answered(_applied(contract), version, arm, at, received, "", key, latency_ms, *row)
                answered.setdefault((model, version, arm == "shadow"), []).append((kept.first, made, entity))
            continue
        else:
            continue
        count += kept.count
    for group in answered.values():
        blocks, events = _blocks(group)
        found += blocks
        count += events
    return found, count


def _blocks(group: Sequence[tuple[int, Answered, str]]) -> tuple[list[Row], int]:
    """One block of all, or one of each where one of them is not what the contract says."""
    first = [number for number, _, _ in group]
    try:
        made = block_of_answers(first, [given for _, given, _ in group])
        whole = msgspec.structs.replace(made, entity=[entity for _, _, entity in group])
        return [(first[0], _ENCODER.encode(whole))], len(whole)
    # a spool that can never be brought back would keep all its neighbours from the lake
    except Exception:
        alone = [_blocks([one]) for one in group] if len(group) > 1 else []
        return [row for rows, _ in alone for row in rows], sum(count for _, count in alone)


def _applied(contract: Contract) -> Contract:
    """The contract of rows whose policies have been applied: a digest is stored as it is."""
    if not contract.hides:
        return contract
    columns = (replace(c, policy="store") if c.policy == "hash" else c for c in contract.columns)
    return replace(contract, columns=tuple(columns))
