"""What was answered then beside what is answered now, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from monitoring.intake.events import value_text
from registry.contract import Output
from serving.batch.answer_columns import answer_types, answered, output_schema
from serving.batch.refusals import Reject
from serving.batch.rows import Ready, Scorer
from serving.dialects.tabular import Array
from serving.replay.source import RecordedRows

RELATIVE: Final = 1e-6
ABSOLUTE: Final = 1e-9
"""Below these two numbers are the same number: how many rows an engine is asked at once changes the last bits."""


def diff_schema(output: Output) -> Any:
    """The columns of a comparison."""
    import pyarrow as pa

    answer = pa.string() if output.kind == "classification" else pa.float64()
    return pa.schema(
        [
            ("_id", pa.string()),
            ("_at", pa.timestamp("us", tz="UTC")),
            ("_version", pa.int64()),
            ("_arm", pa.string()),
            ("recorded", answer),
            ("replayed", answer),
            ("difference", pa.float64()),
            ("changed", pa.bool_()),
            ("label", answer),
            ("reason", pa.string()),
        ]
    )


class Comparison:
    """Makes the rows of the output of a replay, one for each recorded row.

    Args:
        output: of the version that answers.
        orders: for each recorded version, the places of its classes.
    """

    def __init__(self, source: RecordedRows, output: Output, orders: Mapping[int, Sequence[int]]) -> None:
        self._output = output
        self._orders = orders
        self._answered = partial(answered, schema=output_schema(output, source.kept_types), nulls=True)
        self.schema = diff_schema(output)

    def __call__(self, scorer: Scorer, ready: Ready) -> tuple[Any, list[Reject]]:
        """The rows of one chunk; those that got no answer are among them, with the reason."""
        import pyarrow as pa

        batch, rejects = self._answered(scorer, ready)
        recorded, replayed = batch.column("_prediction"), self._replayed(batch)
        difference, changed = self._differences(batch, recorded, replayed)
        reasons: list[str | None] = [None] * batch.num_rows
        for reject in rejects:
            reasons[reject.row - ready.chunk.first] = f"{reject.column}: {reject.reason}".removeprefix(": ")
        ours = [batch.column(name) for name in ("_id", "_at", "_version", "_arm")]
        last = [batch.column("_label"), pa.array(reasons, pa.string())]
        made = [*ours, recorded, replayed, difference, changed, *last]
        return pa.record_batch(made, schema=self.schema), []

    def _replayed(self, batch: Any) -> Any:
        import pyarrow as pa

        answer = batch.column(next(iter(answer_types(self._output))))
        if self._output.kind == "regression" or pa.types.is_string(answer.type):
            return answer
        return pa.array([value_text(value) for value in answer.to_pylist()], pa.string())

    def _differences(self, batch: Any, recorded: Any, replayed: Any) -> tuple[Any, Any]:
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._output.kind == "regression":
            old, new = _numbers(recorded), _numbers(replayed)
            away = np.abs(new - old)
            moved = away > np.maximum(ABSOLUTE, RELATIVE * np.maximum(np.abs(old), np.abs(new)))
            unknown = np.isnan(away)
            return pa.array(away, mask=unknown), pa.array(moved, mask=unknown)
        return self._probabilities(batch), pc.not_equal(recorded, replayed)

    def _probabilities(self, batch: Any) -> Any:
        """The largest difference of a probability; of models without probabilities there is none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        width, rows = len(self._output.classes), batch.num_rows
        old = batch.column("_probabilities")
        if self._output.scores or old.null_count == rows:
            return pa.nulls(rows, pa.float64())
        names = [name for name in answer_types(self._output) if name.startswith("probability_")]
        new = np.column_stack([_numbers(batch.column(name)) for name in names])
        sound = pc.equal(pc.fill_null(pc.list_value_length(old), -1), width).to_numpy(zero_copy_only=False)
        was = np.full((rows, width), np.nan)
        was[sound] = old.filter(pa.array(sound)).flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        versions = _numbers(batch.column("_version"))
        for version, order in self._orders.items():
            if list(order) != list(range(width)):
                rows_of = versions == version
                was[rows_of] = was[rows_of][:, list(order)]
        # what is in the log has been rounded to 32 bits
        away = np.abs(new.astype(np.float32) - was.astype(np.float32)).astype(np.float64).max(axis=1)
        return pa.array(away, mask=np.isnan(away))


def _numbers(array: Any) -> Array:
    """Numbers as doubles, NaN for null."""
    import pyarrow as pa

    found: Array = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return found
