"""What a comparison says in a few numbers; read from the output, so that a job in several runs is told as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from registry.contract import Output
from serving.dialects.tabular import Array
from serving.replay.compare import diff_schema

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_REASONS: Final = 20


class Tally:
    """Counts of some rows. Losses are mean absolute errors of numbers, and shares of wrong classes."""

    def __init__(self, output: Output) -> None:
        self._numeric = output.kind == "regression"
        self._counts: Counter[str] = Counter()
        self._losses = [0.0, 0.0]
        self._away: list[Array] = []

    def add(self, table: Any) -> None:
        """Count the rows of a piece of the output."""
        import pyarrow.compute as pc

        changed = table.column("changed")
        self._counts["rows"] += table.num_rows
        self._counts["compared"] += table.num_rows - changed.null_count
        self._counts["changed"] += pc.sum(changed).as_py() or 0
        away = table.column("difference").drop_null().to_numpy()
        self._away.append(away)
        same = pc.and_(pc.equal(table.column("recorded"), table.column("replayed")), pc.invert(changed))
        if not self._numeric:
            same = pc.and_(same, pc.equal(pc.fill_null(table.column("difference"), 0.0), 0.0))
        self._counts["identical"] += pc.sum(same).as_py() or 0
        self._lose(table.filter(pc.and_(pc.is_valid(changed), pc.is_valid(table.column("label")))))

    def told(self) -> dict[str, Any]:
        """The numbers."""
        counts = self._counts
        facts: dict[str, Any] = {name: counts[name] for name in ("rows", "compared", "identical", "changed")}
        away = np.concatenate(self._away) if self._away else np.empty(0)
        if len(away):
            quantiles = np.quantile(away, list(QUANTILES.values()))
            facts["difference"] = {"mean": float(away.mean()), "max": float(away.max())} | {
                name: float(value) for name, value in zip(QUANTILES, quantiles, strict=True)
            }
        if labelled := counts["labelled"]:
            then, now = self._losses
            facts |= {"labelled": labelled, "loss_recorded": then / labelled, "loss_replayed": now / labelled}
        return facts

    def _lose(self, table: Any) -> None:
        import pyarrow.compute as pc

        self._counts["labelled"] += table.num_rows
        for n, name in enumerate(("recorded", "replayed")):
            label, answer = table.column("label"), table.column(name)
            loss = pc.abs(pc.subtract(label, answer)) if self._numeric else pc.not_equal(label, answer)
            self._losses[n] += pc.sum(loss).as_py() or 0


def summary(out: Path, output: Output) -> dict[str, Any]:
    """Rows, differences and losses of a comparison, in all and for each recorded version."""
    import pyarrow.compute as pc

    whole, versions = Tally(output), dict[int, Tally]()
    reasons: Counter[str] = Counter()
    for table in _pieces(out, output):
        whole.add(table)
        for version in pc.unique(table.column("_version")).to_pylist():
            rows = table.filter(pc.equal(table.column("_version"), version))
            versions.setdefault(version, Tally(output)).add(rows)
        for pair in pc.value_counts(table.column("reason").drop_null().combine_chunks()).to_pylist():
            reasons[pair["values"]] += pair["counts"]
    skipped = dict(reasons.most_common(_REASONS))
    if rest := reasons.total() - sum(skipped.values()):
        skipped["other reasons"] = rest
    by_version = {str(version): tally.told() for version, tally in sorted(versions.items())}
    return {**whole.told(), "skipped": skipped, "by_recorded_version": by_version}


def _pieces(out: Path, output: Output) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    if out.suffix.lower() == ".csv":
        types = {field.name: field.type for field in diff_schema(output) if field.name != "_at"}
        convert = csv.ConvertOptions(
            column_types=types, include_columns=list(types), strings_can_be_null=True, quoted_strings_can_be_null=False
        )
        with csv.open_csv(out, convert_options=convert) as reader:
            for batch in reader:
                yield pa.table(batch)
        return
    with pq.ParquetFile(out) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=[n for n in diff_schema(output).names if n not in ("_id", "_at")])
