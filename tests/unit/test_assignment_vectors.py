"""Assignment is the same in every language: the published answers, by Python, and by the code on the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from registry.routing import Share
from serving.routing import arm_of, bucket

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
VECTORS: dict[str, Any] = json.loads((REFERENCE / "assignment-vectors.json").read_text())
ARMS_JS = """
console.log(JSON.stringify({
  buckets: given.buckets.map(v => bucket(v.salt, v.entity)),
  arms: given.arms.map(v => v.drawn.map(d => armOf(v.weights, d))),
}));
"""
BUCKETS_PL = """
use JSON::PP;
local $/;
my $given = JSON::PP->new->utf8->decode(<STDIN>);
printf("[%s]", join(",", map { sprintf("%.17g", bucket($_->{salt}, $_->{entity})) } @{$given->{buckets}}));
"""


def block(language: str) -> str:
    """The page's code in a language."""
    found = re.search(
        rf"^```{language}\n(.*?)^```$", (REFERENCE / "assignment.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert found is not None
    return found[1]


def run(program: str, *arguments: str) -> Any:
    """What a program prints to the vectors on its standard input; skipped only where it is not there, never in CI."""
    if "CI" not in os.environ and shutil.which(program) is None:
        pytest.skip(f"there is no {program}")
    done = subprocess.run(
        [program, *arguments], input=json.dumps(VECTORS).encode(), capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def places(weights: list[float], drawn: list[float]) -> list[int]:
    """Of the arms that draws fall on; -1 is the champion."""
    arms = tuple(Share(place, weight) for place, weight in enumerate(weights))
    return [-1 if (found := arm_of(arms, draw)) is None else found for draw in drawn]


@pytest.mark.parametrize("vector", VECTORS["buckets"], ids=range(len(VECTORS["buckets"])))
def test_python_agrees(vector: dict[str, Any]) -> None:
    """To the last bit, and so does the definition in whole numbers."""
    assert bucket(vector["salt"], vector["entity"]) == vector["bucket"]
    assert float(Fraction(int(vector["first"], 16), 2**64)) == vector["bucket"]


@pytest.mark.parametrize("vector", VECTORS["arms"], ids=lambda v: str(v["weights"]))
def test_arms_agree(vector: dict[str, Any]) -> None:
    """The place of each draw; together they have the shares that were asked for."""
    assert places(vector["weights"], vector["drawn"]) == vector["places"]
    grid = [n / 10_000 for n in range(10_000)]
    shares = Counter(places(vector["weights"], grid))
    for place, weight in enumerate(vector["weights"]):
        assert shares[place] / len(grid) == pytest.approx(weight, abs=2e-4)


def test_javascript_agrees() -> None:
    """By the code of the page, in Node."""
    code = block("js") + 'const given = JSON.parse((await import("node:fs")).readFileSync(0, "utf8"));' + ARMS_JS
    told = run("node", "--input-type=module", "-e", code)
    assert told["buckets"] == [vector["bucket"] for vector in VECTORS["buckets"]]
    assert told["arms"] == [vector["places"] for vector in VECTORS["arms"]]


def test_perl_agrees() -> None:
    """By the code of the page."""
    assert run("perl", "-e", block("perl") + BUCKETS_PL) == [vector["bucket"] for vector in VECTORS["buckets"]]


def test_the_vectors_hold_what_goes_wrong_elsewhere() -> None:
    """Empty, long, beyond ASCII and the basic plane, two forms of one letter, white space, separators."""
    entities = {vector["entity"] for vector in VECTORS["buckets"]}
    assert {"", "é", "e\u0301", "\U0001f600", " a", "a\x1fb", "\x00"} <= entities
    assert max(map(len, entities)) >= 10_000
    ambiguous = {v["bucket"] for v in VECTORS["buckets"] if v["salt"] + "\x1f" + v["entity"] == "s\x1fa\x1fb"}
    assert len(ambiguous) == 1, "why a salt may hold no separator"
