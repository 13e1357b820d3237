"""Taking rows out of a block: every other row is as it was, under its number."""

from __future__ import annotations

import random
import struct

from monitoring.erasure.wanted import Wanted, without
from monitoring.intake.blocks import Block
from monitoring.intake.events import LabelEvent
from monitoring.intake.pseudonyms import plain
from monitoring.lake.lake_tables import prediction_table


def block(counts: list[int]) -> Block:
    """Requests of so many rows, with numbers that have gaps between requests, and a column of each kind."""
    rows, firsts, first = sum(counts), [], 10
    for count in counts:
        firsts.append(first)
        first += count + 3
    several = range(len(counts))
    return Block(
        "m", 1, False, firsts, counts,
        [float(n) for n in several], [1e6 + n for n in several], ["champion"] * len(counts),
        [plain(f"p{n}") for n in several], [0.5] * len(counts), [f"k{n}" for n in several],
        [f"id-{n}" for n in range(rows)], [float(n) for n in range(rows)], [[float(n)] for n in range(rows)],
        [[n * 2 for n in range(rows)], struct.pack(f"<{rows}d", *map(float, range(rows))), None],
        [n + 1 for n in several], [n % 3 for n in several] if rows % 2 else [],
    )  # fmt: skip


def test_rows_taken_out_of_blocks_leave_all_others_as_they_were() -> None:
    """Blocks of any form, any rows: the table of what is left is the table without those rows."""
    dice = random.Random(3)
    for _ in range(300):
        made = block([dice.randint(1, 6) for _ in range(dice.randint(1, 5))])
        gone = {n for n in range(len(made)) if dice.random() < 0.4}
        left = without(made, gone)
        before = prediction_table([made], "b", None).to_pylist()
        wanted = [row for n, row in enumerate(before) if n not in gone]
        assert (prediction_table([left], "b", None).to_pylist() if left else []) == wanted


def test_whose_rows_they_are() -> None:
    """By pseudonym until a moment, by id always, and of one model only."""
    made = block([2, 3])
    wanted = Wanted("m", 1e6 + 1, frozenset({plain("p1")}))
    assert wanted.rows(made) == [2, 3, 4]
    assert Wanted("m", 1e6 + 0.5, frozenset({plain("p1")})).rows(made) == []
    assert Wanted("m", ids=frozenset({"id-1"})).rows(made) == [1]
    assert Wanted("n", 1e9, frozenset({plain("p1")}), frozenset({"id-1"})).rows(made) == []
    label = LabelEvent("id-1", "m", 1.0, 0.0, 1e12)
    assert wanted.with_ids({"id-1"}).rows(label) == [0]
    assert wanted.rows(label) == []
