"""Usage as rows of a bill: rolled up, priced and in a stable order."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from monitoring.reading.usage import Used, Whose
from perene.usage_settings import UsageSettings

BY: Final = ("key", "model", "day")
COUNTS: Final = ("requests", "rows", "latency_seconds", "cost", "currency")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def bill(
    used: Mapping[Whose, Used], *, by: Sequence[str], prices: UsageSettings, labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """One row for each group, in the order of `by`; seconds and costs are exact decimals.

    Args:
        used: by key, model and day.
        by: some of `BY`, in the order that rows and columns are to have; none is one row in all.
        prices: of a thousand rows.
        labels: names of keys by id, as people gave them.
    """
    counts: dict[tuple[str, ...], Used] = defaultdict(Used)
    costs: dict[tuple[str, ...], Decimal] = defaultdict(Decimal)
    for whose, some in used.items():
        group = tuple(str(getattr(whose, name)) for name in by)
        counts[group] += some
        costs[group] += (prices.price(whose.key, whose.model) * some.rows).scaleb(-3)
    return [_row(group, by, counts[group], costs[group], prices.currency, labels) for group in sorted(counts)]


def _row(
    group: Sequence[str], by: Sequence[str], used: Used, cost: Decimal, currency: str, labels: Mapping[str, str]
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in zip(by, group, strict=True):
        row[name] = value
        if name == "key":
            row["label"] = labels.get(value, "")
    seconds = Decimal(used.latency_us).scaleb(-6)
    money = {"cost": _plain(cost), "currency": currency}
    return row | {"requests": used.requests, "rows": used.rows, "latency_seconds": _plain(seconds)} | money


def columns(by: Sequence[str]) -> list[str]:
    """Names of the columns of a bill."""
    names = [part for name in by for part in ((name, "label") if name == "key" else (name,))]
    return [*names, *COUNTS]


def csv_text(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> str:
    """A bill as CSV; a text that a spreadsheet would take for a formula has an apostrophe before it.

    >>> print(csv_text([{"label": "=1+1", "rows": 3}], ["label", "rows"]), end="")
    label,rows
    '=1+1,3
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_safe(row[name]) for name in names] for row in rows)
    return text.getvalue()


def _safe(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # a carriage return alone ends a line for some readers, and csv does not quote it
    return f"'{value}".replace("\r", " ") if value.startswith(_FORMULA) else value.replace("\r", " ")


def _plain(value: Decimal) -> str:
    """Without exponent and without zeros at the end.

    >>> _plain(Decimal("1200.50")), _plain(Decimal("1E+3")), _plain(Decimal("0.000"))
    ('1200.5', '1000', '0')
    """
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
