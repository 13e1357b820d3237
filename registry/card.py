"""The model card: what a version is for, what it was made from, how good it is and where it may fail.

`card.json` holds the facts and `card.md` is made from them, so that the two cannot disagree. Names of columns and
values of categories are users' data: in Markdown they are escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from registry.contract import EXACT_INT, Column, Contract
from registry.facts import Facts

FORMAT: Final = 1
SUMMARY_CHARACTERS: Final = 4_000
"""MLflow keeps 5,000 of a description."""
_SPECIAL: Final = re.compile(r"[\\`*\[\]|~<>&]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown reads as more than itself; an underscore within a word is none of it."""
_START: Final = re.compile(r"^(?=[-+=#])|(?<=^[0-9])(?=[.)])")
_ENTITIES: Final = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "|": "&#124;"}


def card_facts(
    contract: Contract,
    certificate: Mapping[str, Any],
    reference: Mapping[str, Any],
    facts: Facts,
    made: Mapping[str, Any],
) -> dict[str, Any]:
    """The JSON object kept in `card.json`.

    Args:
        made: `algorithm`, `training` (rows, columns, digest, window), `validation` and `environment`.
    """
    certified = ("verdict", "rows", "adversarial_rows", "max_difference", "share_beyond", "label_flips")
    return {
        "format": FORMAT,
        "model": contract.model,
        "purpose": facts.purpose,
        "owner": facts.owner,
        "ethics": facts.ethics,
        **made,
        "output": {"kind": contract.output.kind, "classes": list(contract.output.classes)},
        "quality": dict(reference["quality"]),
        "baseline": reference["baseline"],
        "certificate": {name: certificate[name] for name in certified}
        | {
            "single_row_us": certificate["single_row_us"],
            "runtime": certificate.get("runtime", "onnx"),
            "precision": contract.precision,
        },
        "inputs": [
            {"name": c.name, "dtype": c.dtype, "nullable": c.nullable, "policy": c.policy, "seen": _seen(c)}
            for c in contract.columns
        ],
        "limits": [*map(str, facts.limits), *_limits(contract, reference, facts, made)],
        "lineage": {str(name): str(value) for name, value in facts.lineage.items()},
    }


def render_card(card: Mapping[str, Any]) -> str:
    """Markdown of the card."""
    heads = [f"# {plain(card['model'])}", "", *_lines(card), ""]
    quality = ["## Quality" + (" on rows it was not fitted on" if card["validation"] == "holdout" else ""), ""]
    quality += _quality(card)
    slices = _slices(card["baseline"]["slices"])
    inputs = ["## Inputs", "", "| column | type | null | seen in training |", "|---|---|---|---|"]
    inputs += [
        f"| {plain(c['name'])} | {c['dtype']} | {'yes' if c['nullable'] else 'no'} | {plain(c['seen'])} |"
        for c in card["inputs"]
    ]
    limits = ["## Limits", "", *(f"- {plain(text)}" for text in card["limits"])]
    ethics = ["## Ethics", "", plain(card["ethics"]) or "Nothing was said."]
    lineage = ["## Lineage", "", *_lineage(card)]
    gates = _gates(card.get("gates", {}))
    parts = (heads, quality, slices, _certificate(card), gates, inputs, limits, ethics, lineage)
    return "\n".join("\n".join(part).rstrip() + "\n" for part in parts if part)


def summary(card: Mapping[str, Any]) -> str:
    """A short form for MLflow's page of a version."""
    lines = [*_lines(card), "", *_quality(card), "", *_certificate(card)[2:], *_gate_line(card.get("gates", {}))]
    return "\n".join(lines)[:SUMMARY_CHARACTERS]


def plain(text: object) -> str:
    """`text` as one line of Markdown that shows exactly its characters.

    >>> plain("a|b\\n<i>*")
    'a&#124;b &lt;i&gt;\\\\*'
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return _START.sub(r"\\", _SPECIAL.sub(lambda found: _ENTITIES.get(found[0], "\\" + found[0]), line))


def interval(figure: Mapping[str, Any]) -> str:
    """A metric's value with its interval."""
    if figure["value"] is None:
        return "not defined"
    if figure["low"] is None:
        return f"{figure['value']:.4g}"
    return f"{figure['value']:.4g} ({figure['low']:.4g} to {figure['high']:.4g})"


def _lines(card: Mapping[str, Any]) -> list[str]:
    training, window = card["training"], card["training"]["window"]
    facts = {
        "purpose": card["purpose"],
        "owner": card["owner"],
        "algorithm": card["algorithm"],
        "output": card["output"]["kind"]
        + (f" over {len(card['output']['classes'])} classes" if card["output"]["classes"] else ""),
        "training rows": f"{training['rows']:,}",
        "training window": f"{window['start']} to {window['end']}" if window["start"] else "",
        "digest of the rows": training["digest"],
        "validation": card["validation"],
    }
    return [f"- **{name}**: {plain(value)}" for name, value in facts.items() if value]


def _quality(card: Mapping[str, Any]) -> list[str]:
    baseline, quality = card["baseline"], card["quality"]
    if not baseline["metrics"]:
        return ["No labels were given: quality is unknown until feedback comes."]
    rows = [f"| {plain(name)} | {interval(figure)} |" for name, figure in baseline["metrics"].items()]
    loss = (
        [f"Bounded loss {quality['loss']:.4f} (sd {quality['loss_sd'] or 0.0:.4f}, cap {quality['cap']:.4g}).", ""]
        if quality["loss"] is not None
        else []
    )
    note = f"{baseline['rows']:,} rows; in brackets 95 % bootstrap intervals, which take rows as independent."
    return ["| metric | value |", "|---|---|", *rows, "", *loss, note]


def _slices(slices: Sequence[Mapping[str, Any]]) -> list[str]:
    if not slices:
        return []
    names = list(dict.fromkeys(name for part in slices for name in part["metrics"]))[:3]
    lines = ["## Slices", "", f"| slice | rows | {' | '.join(map(plain, names))} |", "|---|---|" + "---|" * len(names)]
    for part in slices:
        rows = f"{part['rows']:,}" + ("" if part["sufficient"] else " (insufficient)")
        figures = " | ".join(interval(part["metrics"][name]) for name in names)
        lines.append(f"| {plain(part['column'])}: {plain(part['value'])} | {rows} | {figures} |")
    return lines


def _certificate(card: Mapping[str, Any]) -> list[str]:
    c = card["certificate"]
    return [
        "## Parity certificate",
        "",
        f"Verdict **{c['verdict']}** ({c['runtime']}, {c['precision']}): {c['rows']} real and {c['adversarial_rows']}"
        f" adversarial rows, largest relative difference {c['max_difference']:.2g},"
        f" label flips {c['label_flips']}; one row {c['single_row_us']:.0f} µs.",
    ]


def _gates(found: Mapping[str, Any]) -> list[str]:
    """What the gates said of it beside the champion of its day; empty for a version that nobody had to judge."""
    if not found.get("verdicts"):
        return []
    lines = ["## Gates", "", "| gate | verdict | reason |", "|---|---|---|"]
    lines += [f"| {plain(g['gate'])} | {plain(g['verdict'])} | {plain(g['reason'])} |" for g in found["verdicts"]]
    for name, title in (("robustness", "disturbed rows"), ("calibration", "error")):
        if found.get(name):
            lines += ["", f"| {title} | champion | this version |", "|---|---|---|"]
            lines += [
                f"| {plain(e['name'])} | {_figure(e['champion'])} | {_figure(e['candidate'])} |" for e in found[name]
            ]
    if found.get("slices"):
        lines += ["", "Loss that it saves against the champion:", "", "| slice | rows | saved |", "|---|---|---|"]
        for e in found["slices"]:
            shown = _figure(e["effect"]) if e["effect"] is not None else "too few rows"
            lines.append(f"| {plain(e['column'])}: {plain(e['value'])} | {e['rows']:,} | {shown} |")
    return lines


def _gate_line(found: Mapping[str, Any]) -> list[str]:
    """The verdicts in one line: those that did not pass by name."""
    verdicts = found.get("verdicts", [])
    if not verdicts:
        return []
    passed = sum(g["verdict"] == "pass" for g in verdicts)
    others = [f"{plain(g['gate'])} {plain(g['verdict'])}" for g in verdicts if g["verdict"] != "pass"]
    return ["", f"Gates: {passed} passed" + (f"; {', '.join(others)}." if others else ".")]


def _figure(value: float | None) -> str:
    return "no answer" if value is None else f"{value:.4g}"


def _lineage(card: Mapping[str, Any]) -> list[str]:
    environment = card["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    facts = {
        **card["lineage"],
        "code": environment["code"],
        "python": environment["python"],
        "packages": packages,
        "perene": environment["perene"],
    }
    return [f"- **{plain(name)}**: {plain(value)}" for name, value in facts.items() if value]


def _seen(column: Column) -> str:
    if column.policy != "store":
        return "not shown"  # what the event log may not keep is nobody's to read here
    if column.dtype == "bool":
        return "true or false"
    if column.categories:
        return f"{len(column.categories)} categories"
    if column.minimum is not None and column.maximum is not None:
        return f"{column.minimum:g} to {column.maximum:g}"
    return "many"


def _limits(contract: Contract, reference: Mapping[str, Any], facts: Facts, made: Mapping[str, Any]) -> list[str]:
    nullable = [c.name for c in contract.columns if c.nullable]
    found = [
        "Inputs outside the ranges and categories of the inputs' table were never seen in training; answers there"
        " are guesses.",
        f"Null is accepted in {_listed(nullable)} and refused elsewhere." if nullable else "Null is refused.",
    ]
    if contract.numbers:
        found.append(
            f"Numbers are {contract.precision}: integers beyond ±{EXACT_INT[contract.precision]:,} are refused."
        )
    if contract.output.classes:
        found.append(f"It answers one of {len(contract.output.classes)} classes, whatever the input is.")
    if made["validation"] != "holdout" and reference["baseline"]["metrics"]:
        found.append("Its quality was measured on the rows it was fitted on, so it is better than it will be.")
    few = [part for part in reference["baseline"]["slices"] if not part["sufficient"]]
    if few:
        found.append(f"{len(few)} slices have too few rows to say how good it is there.")
    if facts.leakage_ok:
        found.append(f"Its owner says of {', '.join(facts.leakage_ok)}: known at the time of a prediction.")
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more columns" if len(names) > 20 else "")
