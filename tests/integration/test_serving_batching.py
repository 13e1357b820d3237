"""Greedy batching: together when they come together, alone when one of them is at fault."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from registry.bundle import read_bundle
from registry.errors import ContractViolation, PereneError
from serving.batching import MAX_BATCH_ROWS, Batcher, Outcome
from serving.decode import Decoder
from serving.engine import Answer, Engine
from serving.errors import InferenceFailed
from tests.integration.serving_toy import ROW, one_row_bundle


class Counted(Engine):
    """The real engine, which notes how many rows each run had."""

    def __init__(self, folder: Path) -> None:
        bundle = read_bundle(folder)
        super().__init__(bundle.model_bytes(), bundle.contract, device="cpu")
        self.decoder = Decoder(bundle.contract, max_rows=1_000)
        self.runs: list[int] = []

    def run(self, tensors: Mapping[str, Any]) -> Answer:
        self.runs.append(len(tensors["numbers"]))
        return super().run(tensors)


def row(hour: float) -> tuple[Any, ...]:
    return tuple({**ROW, "hour": hour}[name] for name in ("temp", "hour", "late", "carrier"))


def answered(engine: Counted, *requests: list[tuple[Any, ...]]) -> list[Outcome]:
    """What each request got, all of them submitted in one turn of the loop."""

    async def ask() -> list[Outcome]:
        batcher = Batcher(engine, engine.decoder)
        found: list[Outcome | None] = [None] * len(requests)

        def keeper(place: int) -> Any:
            def done(outcome: Outcome, seconds: float) -> None:
                assert seconds > 0.0
                found[place] = outcome

            return done

        for n, rows in enumerate(requests):
            batcher.submit(rows, keeper(n))
        assert found == [None] * len(requests)
        await asyncio.sleep(0)
        return [outcome for outcome in found if outcome is not None]

    return asyncio.run(ask())


def test_what_comes_together_goes_together(offsets: dict[int, Path]) -> None:
    """One run for three requests; each gets its own answers."""
    engine = Counted(offsets[1])
    found = answered(engine, [row(1)], [row(2), row(3)], [row(4)])
    assert engine.runs == [4]
    assert [a.predictions for a in found if isinstance(a, Answer)] == [[101.0], [102.0, 103.0], [104.0]]


def test_a_batch_is_bounded(offsets: dict[int, Path]) -> None:
    """More rows than a batch may have go in several, in order."""
    engine = Counted(offsets[1])
    found = answered(engine, *[[row(n % 24)] for n in range(MAX_BATCH_ROWS + 10)])
    assert engine.runs == [MAX_BATCH_ROWS, 10]
    assert len(found) == MAX_BATCH_ROWS + 10


def test_a_row_that_cannot_be_packed_fails_alone(offsets: dict[int, Path]) -> None:
    """A fraction for an integer: its request is refused, the others are answered."""
    found = answered(Counted(offsets[1]), [row(1)], [row(1.5)], [row(3)])
    assert isinstance(found[1], ContractViolation)
    assert [a.predictions for a in (found[0], found[2]) if isinstance(a, Answer)] == [[101.0], [103.0]]


def test_a_graph_that_fails_on_several_rows_answers_each(toy_bundle: Path, tmp_path: Path) -> None:
    """The graph takes one row at a time: the batch fails, the requests do not; two rows in one request do."""
    found = answered(Counted(one_row_bundle(toy_bundle, tmp_path / "one")), [row(5)], [row(6), row(7)], [row(8)])
    assert isinstance(found[1], InferenceFailed)
    assert [a.predictions for a in (found[0], found[2]) if isinstance(a, Answer)] == [[5.0], [8.0]]


def test_an_unforeseen_error_is_told_to_everybody(offsets: dict[int, Path], caplog: pytest.LogCaptureFixture) -> None:
    """A row that is no row at all: nobody waits for ever."""
    found = answered(Counted(offsets[1]), [row(1)], [()])
    assert all(isinstance(outcome, PereneError) for outcome in found)
    assert "batch_failed" in caplog.text
