"""A page is text and tables, whatever stands in it: in HTML and in Markdown."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from monitoring.reports.page import LONGEST, Page, Section, Table, html, markdown

HOSTILE = (
    "</td></table><script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "a|b\n| c",
    "[click](javascript:alert(1))",
    "`code` *bold* _it_ # head",
    "\x00\x1b[31m\u202e\ud800",
    "=HYPERLINK(1)",
    "&lt;script&gt;",
)


class Seen(HTMLParser):
    """Tags with their attributes, and the text of cells, as a browser reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep it."""
        self.tags.append((tag, dict(attrs)))
        if tag == "td":
            self.cells.append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        """A cell ends."""
        self._inside = self._inside and tag != "td"

    def handle_data(self, data: str) -> None:
        """Keep a cell's text."""
        if self._inside:
            self.cells[-1] += data


def seen(page: Page) -> Seen:
    """The page as it is read."""
    parser = Seen()
    parser.feed(html(page))
    return parser


@pytest.mark.parametrize("text", HOSTILE)
def test_what_callers_sent_is_text_wherever_it_stands(text: str) -> None:
    """No tag, no attribute and no cell more than a page of plain words has."""
    plain, hostile = (Page(t, (t,), (Section(t, (t,), (Table((t, "n"), ((t, 1), (t, 2))),)),)) for t in ("plain", text))
    assert [tag for tag, _ in seen(hostile).tags] == [tag for tag, _ in seen(plain).tags]
    attributes = [a for tag, a in seen(hostile).tags if tag != "meta"]
    assert attributes == [a for tag, a in seen(plain).tags if tag != "meta"]
    shown = "".join(c if c.isprintable() else " " for c in text.encode("utf-8", "replace").decode())
    assert seen(hostile).cells == [shown, "1", shown, "2"]
    assert len(markdown(hostile).splitlines()) == len(markdown(plain).splitlines())
    row = markdown(hostile).splitlines()[8]
    assert row.count(" | ") == 1
    assert "<" not in row.replace("&lt;", "")


def test_a_page_needs_nothing_from_elsewhere_and_runs_no_script() -> None:
    """No address in it, and a policy that would forbid one."""
    page = Page("t", (), (Section("s", (), (Table(("a",), ((1,),)),)),))
    text = html(page)
    assert "default-src 'none'" in text
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(tag for tag, _ in seen(page).tags)
    assert "http:" not in text
    assert "https:" not in text


def test_a_cell_that_is_very_long_is_cut() -> None:
    """Whoever sent a megabyte does not make the page one."""
    page = Page("t", (), (Section("s", (), (Table(("a",), (("x" * 1_000_000,),)),)),))
    assert len(html(page)) < 2_000 + LONGEST
    assert "x…" in markdown(page)
