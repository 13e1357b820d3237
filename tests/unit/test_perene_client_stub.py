"""The module of types that is made from a contract."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perene.client.stub import module
from registry.contract import Column, Contract, Output

ROW = {"petal length (cm)": 4.7, "class": "a", "n": 1, "seen": True}
CONTRACT = Contract(
    "iris-2",
    (
        Column("petal length (cm)", "float", nullable=True, example=4.7),
        Column("class", "string", example="a\nimport os"),
        Column("n", "int"),
        Column("seen", "bool"),
    ),
    Output("classification", ("setosa", "it's")),
)
APP = """
import perene
from iris import Answer, Label, Row, predict

def ask(client: perene.Client) -> str:
    row: Row = {row}
    found: Answer = predict(client, [row, row])
    label: Label = {{"prediction_id": found["prediction_ids"][0], "label": "setosa"}}
    sure: float = found["probabilities"][0][0]
    return found["predictions"][0]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("stub")
    (made / "iris.py").write_text(module(CONTRACT))
    return made


def checked(folder: Path, row: dict[str, Any], app: str = APP) -> str:
    """What mypy says of an app that sends `row`; the packages it knows are left out, for they take it long."""
    (folder / "app.py").write_text(app.format(row=row))
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=skip", "--ignore-missing-imports"]
    # without a cache: it takes a file of the same size, written in the same second, for the same file
    command += ["--config-file=", "--cache-dir", os.devnull, "iris.py", "app.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


def test_an_app_that_keeps_to_the_contract_passes(folder: Path) -> None:
    """Whatever the columns are called; the module itself is strict too."""
    assert "Success" in checked(folder, ROW)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({**{k: v for k, v in ROW.items() if k != "n"}, "m": 1}, '"n"'),
        ({**ROW, "n": "1"}, '"int"'),
        ({**ROW, "n": None}, '"None"'),
    ],
    ids=["misspelt", "text for a number", "null"],
)
def test_an_app_that_does_not_is_told(folder: Path, row: dict[str, Any], named: str) -> None:
    """Where, and what was expected."""
    told = checked(folder, row)
    assert "app.py:6: error" in told
    assert named in told


def test_a_label_that_is_no_class_is_told(folder: Path) -> None:
    """Classes are literals."""
    assert "error" in checked(folder, ROW, APP.replace('"setosa"}}', '"setose"}}'))


def test_names_and_examples_are_texts_and_no_code() -> None:
    """A column may be called anything."""
    evil = '"}); import os; ({"'
    contract = Contract("m", (Column(evil, "float", example='x"\n1/0'),), Output("regression", targets=("a", "b")))
    names: dict[str, Any] = {}
    exec(compile(module(contract), "stub", "exec"), names)
    assert list(names["Row"].__annotations__) == [evil]
    assert "os" not in names
    assert "predictions: list[list[Value]]" in module(contract)
    assert sorted(names["Answer"].__annotations__) == ["arm", "model", "prediction_ids", "predictions", "version"]
