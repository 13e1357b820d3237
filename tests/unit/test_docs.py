"""The documents say what the code says: commands, settings, metrics, routes, errors, links, versions."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel

import perene
import registry
import registry.errors
import serving.errors
from docs import generate
from grafana.rows import rows
from monitoring.alerting.catalogue import CATALOGUE
from monitoring.alerting.metrics import ServeMetrics
from monitoring.intake.spool import Spool
from monitoring.settings import MonitoringSettings
from perene.cli import app
from perene.config import Settings
from retrain.settings import RetrainSettings
from serving.app import create_app
from serving.errors import _STATUS
from serving.settings import ServingSettings

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
ROOMS = ("registry", "monitoring", "serving", "retrain", "grafana", "perene")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def commands() -> Iterator[tuple[str, Any]]:
    """Each command's full name and its click object."""
    queue: list[tuple[str, Any]] = [("perene", typer.main.get_command(app))]
    while queue:
        name, command = queue.pop(0)
        inner = getattr(command, "commands", {})
        queue += [(f"{name} {part}", child) for part, child in inner.items()]
        if not inner:
            yield name, command


def sections() -> dict[str, str]:
    """Text of the command page by heading."""
    parts = re.split(r"^## (.+)$", (REFERENCE / "command.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_has_its_section_and_no_section_is_without_a_command() -> None:
    """Both ways: a removed command takes its section with it."""
    assert {name for name, _ in commands()} == sections().keys() - {"Not yet"}


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=[name for name, _ in commands()])
def test_a_section_names_exactly_the_flags_of_its_command(name: str, command: Any) -> None:
    """The first line of a section is the usage."""
    usage = sections()[name].strip().splitlines()[0]
    assert usage.startswith(f"`{name}")
    flags = {flag for p in command.params if p.param_type_name == "option" for flag in p.opts}
    assert flags - {"--help"} == set(re.findall(r"--[a-z-]+", usage))


def test_commands_in_the_documents_exist_with_their_flags() -> None:
    """Every `perene …` line of a code block, in every page."""
    known = {name: {flag for p in command.params for flag in p.opts} for name, command in commands()}
    seen = 0
    for page in PAGES:
        blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL))
        for line in re.findall(r"^(?:\S*/)?(perene [a-z].*)$", blocks, flags=re.MULTILINE):
            name = next((n for n in known if line == n or line.startswith(f"{n} ")), None)
            assert name is not None, f"{page.name}: {line}"
            assert set(re.findall(r"(?<=\s)--[a-z-]+", line)) <= known[name], f"{page.name}: {line}"
            seen += 1
    assert seen > 10


def test_python_in_the_documents_is_python_and_uses_public_names() -> None:
    """Every block compiles, and `perene.NAME` is exported."""
    seen: set[str] = set()
    for page in PAGES:
        for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL):
            compile(block, page.name, "exec")
            seen |= set(re.findall(r"(?<!from )\bperene\.(\w+)", block))
    assert seen <= set(perene.__all__)
    assert {"log_model", "events"} <= seen


@pytest.mark.parametrize("model", [Settings, ServingSettings, MonitoringSettings, RetrainSettings])
def test_every_setting_is_described(model: type[BaseModel]) -> None:
    """In a row of the configuration page, with a meaning."""
    page = (REFERENCE / "configuration.md").read_text()
    for name in model.model_fields:
        assert re.search(rf"^\| `{name}` \| [^|]+ \| [^|]+ \| .*\w.* \|$", page, re.MULTILINE), name


def test_every_metric_is_described() -> None:
    """In a row of the metrics page."""
    page = (REFERENCE / "metrics.md").read_text()
    assert [m.name for m in CATALOGUE if f"| `{m.name}` | {m.kind} |" not in page] == []


def test_every_route_and_status_is_described(tmp_path: Path) -> None:
    """On the HTTP page, and no route that the application does not have."""
    page = (REFERENCE / "http.md").read_text()
    with Spool.open(tmp_path) as spool:
        served = create_app(ServingSettings(), tmp_path, spool, ServeMetrics(CollectorRegistry()))
        routes: list[Any] = list(served.routes)
        paths = {route.path.replace(":word}", "}") for route in routes}
    described = {path for _, path in re.findall(r"`(GET|POST) (/[^`?]*)`", page)}
    assert paths == described
    for kind, status in _STATUS:
        assert re.search(rf"^\| {status} \|.*`{kind.code}`", page, re.MULTILINE), kind.code


def test_made_tables_are_current_and_a_stale_one_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `python docs/generate.py --check` says."""
    assert generate.main(["--check"]) == 0
    page = tmp_path / "metrics.md"
    text = (REFERENCE / "metrics.md").read_text()
    page.write_text(text.replace("perene_rows_total", "perene_rows_sum"))
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    assert generate.main(["--check"]) == 1
    assert "not current" in capsys.readouterr().err
    assert generate.main(["--write"]) == 0
    assert page.read_text() == text


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_relative_links_lead_somewhere(page: Path) -> None:
    """To a file or folder, and to a heading where one is named."""
    for target in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


def anchors(page: Path) -> set[str]:
    """Headings as a reader's browser names them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_promises_name_tests_that_exist() -> None:
    """Each `file::test` of the table."""
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "promises.md").read_text())
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}" in (ROOT / file).read_text(), f"{file}::{test}"


def test_the_newest_version_is_the_code_s(tmp_path: Path) -> None:
    """Changelog, project and processes say the same, and in code it stands once."""
    newest = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert newest is not None
    assert newest[1] == perene.__version__ == registry.__version__ == project
    served = re.search(r'perene_build_info\{version="([^"]+)"\} 1', metrics(tmp_path))
    assert served is not None
    assert served[1] == project
    code = [p for room in ROOMS for p in (ROOT / room).rglob("*.py") if f'"{project}"' in p.read_text()]
    assert code == [ROOT / "registry" / "__init__.py"]


def metrics(folder: Path) -> str:
    """What a serve process exports before its first request."""
    registered = CollectorRegistry()
    with Spool.open(folder) as spool:
        create_app(ServingSettings(), folder, spool, ServeMetrics(registered))
    return generate_latest(registered).decode()


def test_every_error_has_its_anchor_and_a_sentence() -> None:
    """Where the `docs` of an answer lead, and no anchor without an error."""
    page = (ROOT / "serving" / "docs.html").read_text()
    modules = (registry.errors, serving.errors)
    codes = {
        kind.code
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, registry.errors.PereneError)
    }
    found = dict(re.findall(r'<dt id="error-([a-z_]+)">.*?</dt>\s*<dd>(.*?)</dd>', page))
    assert found.keys() == codes
    assert page.count('id="error-') == len(codes)
    assert all(len(text) > 40 and text.endswith(".") for text in found.values())


def test_documents_name_commands_that_exist() -> None:
    """Every `perene …` in running text, runbooks above all."""
    known = dict(commands())
    for page in PAGES:
        for words in re.findall(r"`perene ([a-z][^`]*)`", page.read_text()):
            assert any(f"perene {words} ".startswith(f"{name} ") for name in known), f"{page.name}: {words}"


def test_runbooks_name_panels_and_metrics_that_exist() -> None:
    """A title between asterisks is a panel of the dashboard."""
    titles = {panel.title for row in rows() for panel in row.panels}
    series = {name for metric in CATALOGUE for name in metric.series}
    for page in (ROOT / "docs" / "runbooks").glob("*.md"):
        text = page.read_text()
        assert set(re.findall(r"(?<!\*)\*([A-Z][^*\n]+)\*(?!\*)", text)) <= titles, page.name
        assert set(re.findall(r"`(perene_\w+)", text)) <= series, page.name
