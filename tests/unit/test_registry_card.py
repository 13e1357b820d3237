"""The card: its two files say the same, and nothing a user writes is read as Markdown or HTML."""

from __future__ import annotations

import json
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from registry.baseline import build_baseline
from registry.card import SUMMARY_CHARACTERS, card_facts, plain, render_card, summary
from registry.contract import Column, Contract, Output
from registry.facts import Facts
from registry.html import contract_html, version_html
from registry.original import Answers
from registry.version import ModelVersion

EVIL = "<script>alert(1)</script>|*a*_b_`c`[d](e)\n# f &amp; ~~g~~ \\"
CERTIFICATE = {
    "verdict": "exact",
    "rows": 1_000,
    "adversarial_rows": 200,
    "max_difference": 1e-7,
    "share_beyond": 0.0,
    "label_flips": 0,
    "single_row_us": 12.0,
}
CONTRACT = Contract(
    "toy",
    (
        Column(EVIL, "string", nullable=True, categories=(EVIL, "b"), example="b"),
        Column("hour", "int", minimum=0.0, maximum=23.0, example=7),
    ),
    Output("regression"),
)
FACTS = Facts(
    owner="ops@example.org",
    purpose="minutes in the air",
    ethics=EVIL,
    limits=["not for balloons"],
    slices=[EVIL],
    leakage_ok=["hour"],
    lineage={"parent version": "3"},
)


def made(contract: Contract = CONTRACT, facts: Facts = FACTS, *, labelled: bool = True) -> dict[str, Any]:
    rows = 150
    texts, numbers = np.array([EVIL] * 120 + ["b"] * 30), np.arange(rows)
    frame = {c.name: texts if c.dtype == "string" else numbers for c in contract.columns}
    answers = Answers(np.arange(rows, dtype=np.float64)[:, None])
    labels = np.arange(rows) + 1.0 if labelled else None
    baseline = build_baseline(contract, answers, labels, frame, slices=facts.slices)
    quality = {"metric": "mae", "value": 1.0, "loss": 0.25, "loss_sd": 0.1, "cap": 4.0, "n": rows}
    if not labelled:
        quality |= {"value": None, "loss": None, "loss_sd": None, "n": 0}
    window = {"start": "2026-01-01", "end": "2026-02-01"}
    facts_made = {
        "algorithm": "Ridge",
        "training": {"rows": rows, "columns": 2, "digest": "ab" * 32, "window": window},
        "validation": "holdout" if labelled else "none",
        "environment": {"python": "3.11.7", "perene": "0", "packages": {"sklearn": "1.9.1"}, "code": "c0ffee"},
    }
    return card_facts(contract, CERTIFICATE, {"quality": quality, "baseline": baseline}, facts, facts_made)


def rendered(markdown: str) -> str:
    return str(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown))


class Reader(HTMLParser):
    """Tags and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_card_says_what_its_facts_say() -> None:
    """Purpose, owner, data, algorithm, metrics with intervals, slices, certificate, limits, ethics, lineage."""
    card = made()
    text = render_card(json.loads(json.dumps(card)))
    for expected in (
        "minutes in the air",
        "ops@example.org",
        "Ridge",
        "2026-01-01 to 2026-02-01",
        "ab" * 32,
        "| mae | 1 (1 to 1) |",
        "Bounded loss 0.2500",
        "(insufficient)",
        "Verdict **exact** (onnx, float32)",
        "not for balloons",
        "Null is accepted in",
        "±16,777,216",
        "1 slices have too few rows",
        "Its owner says of hour",
        "parent version",
        "c0ffee",
        "sklearn 1.9.1",
    ):
        assert expected in text, expected


def test_without_labels_the_card_says_that_quality_is_unknown() -> None:
    """Instead of a table of nothing."""
    assert "quality is unknown" in render_card(made(labelled=False))


def test_names_and_values_of_users_stay_text() -> None:
    """No tag of theirs, no heading, no emphasis, no further cell, and every character is shown."""
    page = Reader(rendered(render_card(made())))
    assert set(page.tags) <= {"h1", "h2", "ul", "li", "p", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    shown = " ".join(EVIL.split())
    assert shown in "".join(page.texts)
    inputs = rendered(render_card(made())).split("<h2>Inputs</h2>")[1]
    assert inputs.count("<tr>") == 3
    assert inputs.split("</table>")[0].count("<td>") == 8


@given(st.text(min_size=1))
def test_plain_shows_exactly_its_characters(text: str) -> None:
    """Whatever they are, but for white space and what cannot be printed."""
    expected = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    assert unescape(rendered(f"| head |\n|---|\n| {plain(text)} |")).split("<td>")[1].split("</td>")[0] == expected
    assert Reader(rendered(plain(text))).tags in ([], ["p"])


def test_the_summary_fits_into_mlflow() -> None:
    """However long a purpose is."""
    card = made(facts=replace(FACTS, purpose="long " * 5_000))
    assert len(summary(card)) <= SUMMARY_CHARACTERS


def test_notebooks_show_values_escaped() -> None:
    """A version and its contract; nothing of a user's becomes a tag, and the call can be copied."""
    version = ModelVersion("toy", 3, "d" * 64, "exact", CERTIFICATE, CONTRACT, made()["baseline"])
    for page in (version_html(version), contract_html(CONTRACT), CONTRACT._repr_html_(), version._repr_html_()):
        read = Reader(page)
        assert set(read.tags) <= {"div", "b", "p", "code", "table", "thead", "tbody", "tr", "th", "td"}
        assert EVIL in "".join(read.texts)
    assert "exact: 1000 real and 200 adversarial rows" in version_html(version)
    assert "mae" in version_html(version)
    assert 'predict("toy"' in unescape(version_html(version))


def test_what_the_event_log_may_not_keep_is_not_shown() -> None:
    """Neither range nor categories of a column that is hashed or dropped."""
    hidden = replace(
        CONTRACT,
        columns=(
            replace(CONTRACT.columns[0], name="carrier", policy="drop", categories=("inmate",)),
            replace(CONTRACT.columns[1], policy="hash", maximum=4711.0),
        ),
    )
    facts = Facts(owner="ops")
    for page in (render_card(made(hidden, facts)), contract_html(hidden)):
        assert page.count("not shown") == 2
        assert "4711" not in page
        assert "inmate" not in page


def test_a_wide_contract_is_shown_in_part() -> None:
    """A notebook is no place for two thousand rows."""
    wide = replace(CONTRACT, columns=tuple(Column(f"c{n}", "float", example=1.0) for n in range(2_000)))
    assert "and 1950 more columns" in contract_html(wide)
    assert len(contract_html(wide)) < 20_000


@pytest.mark.parametrize("field", ["owner", "purpose", "ethics"])
def test_a_card_in_which_nothing_was_said_is_a_card(field: str) -> None:
    """Every fact is optional."""
    said: dict[str, Any] = {field: "said"}
    assert "said" in render_card(made(facts=replace(Facts(slices=FACTS.slices), **said)))


def test_the_gates_tables_are_in_the_card_and_their_names_stay_text() -> None:
    """Verdicts, disturbed rows, calibration and slices; a category's value is text here too."""
    found = {
        "verdicts": [{"gate": "slices", "verdict": "fail", "reason": f"g: {EVIL} is worse"}],
        "robustness": [{"name": "noise", "champion": 0.25, "candidate": None}],
        "calibration": [{"name": "brier", "champion": 0.1, "candidate": 0.125}],
        "slices": [
            {"column": "g", "value": EVIL, "rows": 1_500, "effect": -0.1},
            {"column": "g", "value": "b", "rows": 7, "effect": None},
        ],
    }
    text = render_card(made() | {"gates": found})
    page = Reader(rendered(text))
    assert "script" not in page.tags
    assert " ".join(EVIL.split()) in "".join(page.texts)
    assert "| noise | 0.25 | no answer |" in text
    assert "| brier | 0.1 | 0.125 |" in text
    assert "| g: b | 7 | too few rows |" in text
    assert "Gates: 0 passed; slices fail." in summary(made() | {"gates": found})
    assert "## Gates" not in render_card(made())
