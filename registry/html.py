"""How notebooks show the registry's values. Names and values of users are escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from registry.card import interval

if TYPE_CHECKING:
    from registry.contract import Column, Contract
    from registry.version import ModelVersion

MAX_ROWS = 50


def version_html(version: ModelVersion) -> str:
    """Verdict, metrics, contract and how to ask."""
    c = version.certificate
    head = f"<b>{escaped(version.model)}</b> version {version.version}"
    facts: dict[str, object] = {
        "certificate": f"{c['verdict']}: {c['rows']} real and {c['adversarial_rows']} adversarial rows",
        "runtime": f"{c.get('runtime', 'onnx')}, {version.contract.precision}",
        "largest difference": f"{c['max_difference']:.2g}",
        "label flips": c["label_flips"],
        "one row": f"{c['single_row_us']:.0f} µs",
        "digest": version.digest[:12],
    }
    metrics: Mapping[str, Any] = version.baseline.get("metrics", {})
    figures = [(name, interval(figure)) for name, figure in metrics.items()]
    ask = f'perene.Client("http://127.0.0.1:8000").predict("{version.model}", {_row(version.contract)})'
    return "".join(
        [
            f"<div>{head}",
            table(("", ""), facts.items()),
            table(("metric", "value (95 % interval)"), figures) if figures else "",
            contract_html(version.contract),
            f"<code>{escaped(ask)}</code></div>",
        ]
    )


def contract_html(contract: Contract) -> str:
    """Columns and output."""
    rows = [(c.name, c.dtype, "yes" if c.nullable else "no", _seen(c), c.policy) for c in contract.columns[:MAX_ROWS]]
    more = len(contract.columns) - MAX_ROWS
    classes = f" over {len(contract.output.classes)} classes" if contract.output.classes else ""
    tail = f"<p>and {more} more columns</p>" if more > 0 else ""
    head = f"<p>{escaped(contract.model)}: {escaped(contract.output.kind)}{classes}, {escaped(contract.precision)}</p>"
    return head + table(("column", "type", "null", "training", "event log"), rows) + tail


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table of escaped cells."""
    heads = "".join(f"<th>{escaped(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _seen(column: Column) -> str:
    return str(column.json_schema().get("description", "")) if column.policy == "store" else "not shown"


def _row(contract: Contract) -> str:
    import json

    shown = dict(list(contract.example_row().items())[:8])
    return json.dumps(shown, ensure_ascii=False) if len(shown) == len(contract.columns) else "row"


def escaped(value: object) -> str:
    """A value as text of HTML."""
    return escape(str(value), quote=True)
