"""The example notebook, run cell by cell in a kernel of its own on a fresh home."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook" / "first-model.ipynb"


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kernel of this interpreter, in a kernelspec that nobody else sees."""
    spec = tmp_path / "jupyter" / "kernels" / "perene-test"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "test", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[2]))
    monkeypatch.setenv("PERENE__HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    return "perene-test"


def outputs(cell: Any) -> dict[str, str]:
    """A cell's results by type."""
    return {kind: text for output in cell.outputs for kind, text in output.get("data", {}).items()}


def test_the_notebook_logs_inspects_and_promotes(kernel: str, tmp_path: Path) -> None:
    """On real data; versions, deployment and inspection show themselves as tables."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    (tmp_path / "work").mkdir()
    NotebookClient(
        notebook, timeout=250, kernel_name=kernel, resources={"metadata": {"path": str(tmp_path / "work")}}
    ).execute()
    cells = {cell.id: outputs(cell) for cell in notebook.cells if cell.cell_type == "code"}
    assert "version 1" in cells["first"]["text/html"]
    assert "certificate" in cells["first"]["text/html"]
    assert re.match(r"\('(exact|close)',\s+{'value': 0\.\d+", cells["second"]["text/plain"])
    assert "HistGradientBoostingClassifier" in cells["models"]["text/html"]
    assert cells["promote"]
    assert "version 2" in cells["inspect"]["text/html"]
    assert "roc_auc" in cells["inspect"]["text/html"]
    assert (tmp_path / "home" / "ledger.db").is_file()
    assert os.listdir(tmp_path / "work") == []


def test_the_notebook_is_kept_small_and_clean() -> None:
    """At most ten cells, without outputs, counters or anybody's paths."""
    text = NOTEBOOK.read_text()
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 10
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
    assert not re.search(r"/home/|/Users/|/tmp|C:\\", text)
    assert set(re.findall(r"\bperene\.(\w+)", text)) <= set(__import__("perene").__all__)
