"""The one place where batch jobs meet the server's decoder and engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from registry.bundle import Bundle
from registry.errors import ContractViolation
from serving.batch.chunk import Chunk
from serving.batch.refusals import Reject, by_row
from serving.decode import Decoder, Mode
from serving.devices.threads import usable_threads
from serving.dialects.tabular import Array, Cells, read_table
from serving.engine import Answer, Engine, require_device
from serving.errors import InferenceFailed, OutputNotFinite
from serving.native import NativeEngine
from serving.settings import ServingSettings

ROWS: Final = 8_192
NATIVE_ROWS: Final = 1_024
"""A native model has seconds for what it is asked at once."""
_CELLS: Final = 500_000
"""Cells of a chunk, of which a handful are in memory at once."""
_SLICE: Final = 256
_MOST_FAILED: Final = 100
"""Rows on which the model itself may fail before it is the model that is at fault."""


@dataclass(frozen=True)
class Ready:
    """Rows of a chunk that can be asked about, by place, and those that cannot."""

    chunk: Chunk
    tensors: Mapping[str, Array] | None
    places: Array
    rejects: tuple[Reject, ...]


class Scorer:
    """A verified version, loaded. Usable as a context manager."""

    def __init__(self, bundle: Bundle, settings: ServingSettings) -> None:
        self.contract = bundle.contract
        self.rows = min(NATIVE_ROWS if bundle.native else ROWS, max(64, _CELLS // len(bundle.contract.columns)))
        self.decoder = Decoder(bundle.contract, max_rows=self.rows, mode=settings.decoding)
        self._failed = 0
        if bundle.native:
            seconds = settings.native_seconds
            self._engine: Engine | NativeEngine = NativeEngine(
                bundle, allow_pickle=settings.allow_pickle, seconds=seconds
            )
            return
        require_device(settings.device)
        self._engine = Engine(
            bundle.model_bytes(),
            bundle.contract,
            device=settings.device,
            threads=usable_threads(settings.threads),
            gpu=settings.gpu,
        )

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._engine, NativeEngine):
            self._engine.close()

    @property
    def provider(self) -> str:
        """What runs the model."""
        return self._engine.provider

    def ready(self, chunk: Chunk, *, coerced: bool) -> Ready:
        """Check and pack the rows of a chunk.

        Raises:
            ContractViolation: a whole column does not fit.
        """
        mode: Mode = "mlflow" if coerced else self.decoder.mode
        if not chunk.unusable:
            try:
                tensors = read_table(self.decoder, chunk.cells, chunk.count, mode=mode).tensors
                return Ready(chunk, tensors, np.arange(chunk.count), ())
            except ContractViolation as error:
                if by_row(error) is None:
                    raise
        return self._sifted(chunk, mode)

    def answers(self, tensors: Mapping[str, Array]) -> Iterator[tuple[Array, Answer | str]]:
        """Answers of rows by place; a reason for a row on which the model fails.

        Raises:
            InferenceFailed: it fails again and again.
        """
        yield from self._asked(tensors, np.arange(len(next(iter(tensors.values())))))

    def _asked(self, tensors: Mapping[str, Array], places: Array) -> Iterator[tuple[Array, Answer | str]]:
        try:
            answer = self._engine.run(tensors)
        except (OutputNotFinite, InferenceFailed) as error:
            if len(places) > 1:
                middle = len(places) // 2
                for half in (slice(None, middle), slice(middle, None)):
                    yield from self._asked({name: tensor[half] for name, tensor in tensors.items()}, places[half])
                return
            self._failed += isinstance(error, InferenceFailed)
            if self._failed > _MOST_FAILED:
                raise
            yield places, error.message
            return
        yield places, answer

    def _sifted(self, chunk: Chunk, mode: Mode) -> Ready:
        """The rows that fit, found with the decoder's own words on those that do not."""
        bad = {place: ("", reason) for place, reason in chunk.unusable.items()}
        good: list[Array] = []
        packed: list[Mapping[str, Array]] = []
        for start in range(0, chunk.count, _SLICE):
            left = np.array([n for n in range(start, min(start + _SLICE, chunk.count)) if n not in bad], dtype=np.intp)
            while len(left):
                try:
                    packed.append(read_table(self.decoder, _some(chunk.cells, left), len(left), mode=mode).tensors)
                except ContractViolation as error:
                    named = by_row(error)
                    if named is None:
                        raise
                    bad |= {int(left[place]): why for place, why in named.items()}
                    left = np.delete(left, list(named))
                    continue
                good.append(left)
                break
        rejects = tuple(
            Reject(chunk.first + n, chunk.line_of(n), column, why) for n, (column, why) in sorted(bad.items())
        )
        if not good:
            return Ready(chunk, None, np.empty(0, np.intp), rejects)
        tensors = {name: np.concatenate([part[name] for part in packed]) for name in packed[0]}
        return Ready(chunk, tensors, np.concatenate(good), rejects)


def _some(cells: Mapping[str, Cells], places: Array) -> dict[str, Cells]:
    return {
        name: Cells(c.values[places], c.kind, None if c.null is None else c.null[places], c.widened)
        for name, c in cells.items()
    }
