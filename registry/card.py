"""The model card: what a version is for, what it was made from, how good it is and where it may fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry.contract import Contract


def render_card(
    contract: Contract, certificate: Mapping[str, Any], reference: Mapping[str, Any], facts: Mapping[str, str]
) -> str:
    """Markdown of the card. `facts` are lines such as owner, purpose, algorithm, training window."""
    quality = reference["quality"]
    lines = [f"# {contract.model}", ""]
    lines += [f"- **{name}**: {value}" for name, value in facts.items() if value]
    lines += [
        f"- **output**: {contract.output.kind}"
        + (f" over {len(contract.output.classes)} classes" if contract.output.classes else ""),
        "",
        "## Quality on rows it was not fitted on" if facts.get("validation") == "holdout" else "## Quality",
        "",
        f"- {quality['metric']}: {quality['value']:.4g} on {quality['n']} rows",
        f"- bounded loss: {quality['loss']:.4f} (sd {quality['loss_sd']:.4f}, cap {quality['cap']:.4g})",
        "",
        "## Parity certificate",
        "",
        f"Verdict **{certificate['verdict']}**: {certificate['rows']} real and {certificate['adversarial_rows']}"
        f" adversarial rows, largest relative difference {certificate['max_difference']:.2g},"
        f" label flips {certificate['label_flips']}; one row {certificate['single_row_us']:.0f} µs.",
        "",
        "## Inputs",
        "",
        "| column | type | null | seen in training |",
        "|---|---|---|---|",
    ]
    for c in contract.columns:
        seen = (
            f"{len(c.categories)} categories"
            if c.categories
            else f"{c.minimum:g} to {c.maximum:g}"
            if c.minimum is not None and c.maximum is not None
            else "many"
        )
        lines.append(f"| {c.name} | {c.dtype} | {'yes' if c.nullable else 'no'} | {seen} |")
    lines += [
        "",
        "## Limits",
        "",
        "Inputs outside the ranges and categories above were never seen in training; the answers there are guesses.",
        "",
    ]
    return "\n".join(lines)
