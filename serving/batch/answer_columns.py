"""Answers as columns of the output: flat, so that Parquet and CSV say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from registry.contract import Output
from serving.batch.refusals import BatchRefused, Reject
from serving.batch.rows import Ready, Scorer
from serving.dialects.tabular import Array
from serving.engine import Answer

ROW = "row"


def answer_types(output: Output) -> dict[str, Any]:
    """Names and Arrow types of the columns that answers make."""
    import pyarrow as pa

    if output.kind == "regression":
        names = [f"prediction_{target}" for target in output.targets] or ["prediction"]
        return dict.fromkeys(names, pa.float64())
    kinds = {bool: pa.bool_(), int: pa.int64(), str: pa.string()}
    beside = [f"score_{name}" for name in output.scores] or [f"probability_{name}" for name in output.classes]
    return {"prediction": kinds[type(output.classes[0])], **dict.fromkeys(beside, pa.float64())}


def output_schema(output: Output, kept: Mapping[str, Any]) -> Any:
    """The schema of the output: the number of the row, what is kept, the answer.

    Raises:
        BatchRefused: a column that is kept has the name of another.
    """
    import pyarrow as pa

    answers = answer_types(output)
    taken = next((name for name in kept if name in answers or name == ROW), None)
    if taken is not None:
        raise BatchRefused(
            f"a column '{taken}' cannot be kept: the output has one of this name",
            where="--keep",
            hint="rename it in the file",
        )
    return pa.schema([(ROW, pa.int64()), *kept.items(), *answers.items()])


def check_csv(kept: Mapping[str, Any], out: Path) -> None:
    """Refuse to keep what CSV cannot hold.

    Raises:
        BatchRefused: a column of lists or structs.
    """
    import pyarrow.types as t

    for name, kind in kept.items():
        if t.is_nested(kind):
            raise BatchRefused(
                f"{out}: column '{name}' holds {kind}, which CSV cannot", where="--keep", hint="write Parquet"
            )


def answered(scorer: Scorer, ready: Ready, schema: Any, *, nulls: bool) -> tuple[Any, list[Reject]]:
    """The rows of the output for one chunk, and the rows that got no answer.

    Args:
        scorer: the loaded version.
        ready: rows to ask about.
        schema: of the output.
        nulls: whether rows without an answer are there, with nulls.
    """
    import pyarrow as pa

    chunk, rejects = ready.chunk, list(ready.rejects)
    types = answer_types(scorer.contract.output)
    places: list[Array] = []
    found: list[Sequence[Any]] = []
    for asked, answer in scorer.answers(ready.tensors) if ready.tensors is not None else ():
        rows = ready.places[asked]
        if isinstance(answer, str):
            rejects.append(Reject(chunk.first + int(rows[0]), chunk.line_of(int(rows[0])), "", answer))
            continue
        places.append(rows)
        found.append(_arrays(scorer.contract.output, answer, types))
    joined = [pa.concat_arrays(parts) for parts in zip(*found, strict=True)] or [
        pa.array([], kind) for kind in types.values()
    ]
    answered_places = np.concatenate(places) if places else np.empty(0, np.intp)
    numbers, kept = chunk.first + np.arange(chunk.count), list(chunk.kept.values())
    if nulls and len(answered_places) < chunk.count:
        # a null place takes a null
        which = np.zeros(chunk.count, dtype=np.int64)
        which[answered_places] = np.arange(len(answered_places))
        gone = np.ones(chunk.count, dtype=bool)
        gone[answered_places] = False
        joined = [array.take(pa.array(which, mask=gone)) for array in joined]
    elif len(answered_places) < chunk.count:
        some = pa.array(answered_places)
        numbers, kept = numbers[answered_places], [array.take(some) for array in kept]
    return pa.record_batch([pa.array(numbers), *kept, *joined], schema=schema), sorted(rejects)


def _arrays(output: Output, answer: Answer, types: Mapping[str, Any]) -> list[Any]:
    import pyarrow as pa

    kinds = list(types.values())
    if output.kind == "regression" and not output.targets:
        return [pa.array(answer.predictions, kinds[0])]
    beside = answer.predictions if output.kind == "regression" else answer.scores or answer.values
    wide = np.asarray(beside, dtype=np.float64)
    columns = [pa.array(np.ascontiguousarray(wide[:, n])) for n in range(wide.shape[1])]
    return columns if output.kind == "regression" else [pa.array(answer.predictions, kinds[0]), *columns]
