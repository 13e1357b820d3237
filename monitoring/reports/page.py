"""A page of text and tables, as HTML that needs nothing else, and as Markdown with the same content.

Whatever stands in it may come from callers: every text is escaped, in both forms, and nothing of it is ever markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from registry.card import plain

__all__ = ["Link", "Page", "Section", "Table", "html", "markdown"]

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;"
    "background:#fff}table{border-collapse:collapse;margin:.5rem 0 1rem}th,td{text-align:left;padding:.2rem .8rem "
    ".2rem 0;border-bottom:1px solid #ddd;vertical-align:top;overflow-wrap:anywhere}td{font-variant-numeric:"
    "tabular-nums}h2{margin-top:2rem}p{max-width:50rem}"
)
LONGEST: Final = 200
"""Characters of a cell: what somebody sent must not make a page that no browser opens."""


@dataclass(frozen=True, slots=True)
class Link:
    """A cell that leads to a file beside the page; `to` is a path of our own making, never a caller's text."""

    text: str
    to: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells below a head; a cell is anything that has a text, or a `Link`."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, paragraphs, and tables."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report."""

    title: str
    text: Sequence[str]
    sections: Sequence[Section]


def html(page: Page) -> str:
    """One file without scripts, and without anything from elsewhere.

    >>> "&lt;b&gt;" in html(Page("<b>", (), ()))
    True
    """
    return "\n".join(_html(page)) + "\n"


def markdown(page: Page) -> str:
    """The same for a terminal, a ticket, or a repository.

    >>> markdown(Page("a|b", ("c",), (Section("d", tables=(Table(("e",), ((1,),)),)),))).splitlines()[0]
    '# a&#124;b'
    """
    lines = [f"# {_plain(page.title)}", "", *_paragraphs(page.text)]
    for section in page.sections:
        lines += [f"## {_plain(section.title)}", "", *_paragraphs(section.text)]
        for table in section.tables:
            lines += [_line(table.head), _line(["---"] * len(table.head), raw=True)]
            lines += [*(_line(row) for row in table.rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def _html(page: Page) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    yield f"<title>{_text(page.title)}</title><style>{_STYLE}</style></head><body><h1>{_text(page.title)}</h1>"
    yield from (f"<p>{_text(text)}</p>" for text in page.text)
    for section in page.sections:
        yield f"<h2>{_text(section.title)}</h2>"
        yield from (f"<p>{_text(text)}</p>" for text in section.text)
        for table in section.tables:
            yield "<table><thead><tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in table.head) + "</tr></thead>"
            for row in table.rows:
                yield "<tr>" + "".join(f"<td>{_html_cell(cell)}</td>" for cell in row) + "</tr>"
            yield "</table>"
    yield "</body></html>"


def _paragraphs(texts: Sequence[str]) -> list[str]:
    return [line for text in texts for line in (_plain(text), "")]


def _line(cells: Sequence[object], *, raw: bool = False) -> str:
    return f"| {' | '.join(str(cell) if raw else _markdown_cell(cell) for cell in cells)} |"


def _html_cell(cell: object) -> str:
    if isinstance(cell, Link):
        return f'<a href="{escape(cell.to, quote=True)}">{_text(cell.text)}</a>'
    return _text(cell)


def _markdown_cell(cell: object) -> str:
    if isinstance(cell, Link):
        return f"[{_cell(cell.text)}]({cell.to})"
    return _cell(cell)


def _cell(cell: object) -> str:
    """Inside a line nothing begins a list, so a number's point and a minus stay as they are."""
    return plain(f"x{_short(cell)}")[1:]


def _short(value: object) -> str:
    text = str(value).encode("utf-8", "replace").decode()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _text(value: object) -> str:
    return escape("".join(c if c.isprintable() else " " for c in _short(value)), quote=True)


def _plain(value: object) -> str:
    return plain(_short(value))
