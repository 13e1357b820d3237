"""The generated JavaScript client: made from a live server, type-checked, and run in Node against it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.client_server import Live, live_server
from tests.acceptance.gate import CUT, gate, refusal
from tests.acceptance.test_serving_process import ROOT
from tests.conftest import Toy
from tests.integration.serving_toy import ROW, answer

TOOLS = ROOT / "build" / "js"
PAGE = ROOT / "docs" / "how-to" / "call-from-an-app.md"
HERE = [ROW, {**ROW, "temp": None, "hour": 9}]


@pytest.fixture(scope="module", autouse=True)
def node() -> None:
    """The generator's packages; where Node is not, only this machine's own runs go on without."""
    if "CI" not in os.environ and (shutil.which("node") is None or shutil.which("npm") is None):
        pytest.skip("needs Node 20 and npm")
    subprocess.run([ROOT / "scripts" / "js-client"], check=True, timeout=240)


@pytest.fixture(scope="module")
def live(toy_bundle: Path, classification: Toy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_server(tmp_path_factory.mktemp("js"), toy_bundle, classification) as running:
        yield running


@pytest.fixture(scope="module")
def app(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an app with the client in it, made by the one command."""
    folder = tmp_path_factory.mktemp("app")
    subprocess.run([ROOT / "scripts" / "js-client", live.url, folder / "perene"], check=True, timeout=60)
    assert sorted(path.name for path in (folder / "perene").iterdir()) == ["client.d.mts", "client.mjs", "schema.d.mts"]
    return folder


def compiled(app: Path, sources: dict[str, str]) -> dict[str, str]:
    """What TypeScript, in strict mode, has to say about each file of the app."""
    options = {"strict": True, "module": "nodenext", "target": "es2022", "lib": ["es2022", "dom"], "types": []}
    for name, source in sources.items():
        (app / name).write_text(source)
    (app / "tsconfig.json").write_text(
        json.dumps({"compilerOptions": {**options, "noEmit": True}, "files": [*sources]})
    )
    tsc = TOOLS / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run(["node", tsc, "--pretty", "false"], cwd=app, capture_output=True, text=True, check=False)
    told = {name: "\n".join(line for line in done.stdout.splitlines() if line.startswith(name)) for name in sources}
    assert bool(done.returncode) == any(told.values()), done.stdout
    return told


def ran(app: Path, source: str, **environment: str) -> Any:
    """The JSON that a script prints, with `client` made for it."""
    head = (
        'import { Perene, PereneError } from "./perene/client.mjs";\n'
        "const client = new Perene(process.env.URL, { key: process.env.KEY });\n"
        "const refused = async (asked) => { try { await asked } catch (error) { return error } };\n"
    )
    done = subprocess.run(
        ["node", "--input-type=module", "-e", head + source],
        cwd=app,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


TYPED = """
import { Perene, type Answer, type ModelName, type Row } from "./perene/client.mjs";
const client = new Perene("http://127.0.0.1:8000", { key: "k" });
const names: ModelName[] = ["toy", "is-late.v2"];
const row: Row<"toy"> = { temp: null, hour: 7, late: true, carrier: "AA" };
const found: Answer<"toy"> = await client.predict("toy", [row, row], { entity: "e", at: new Date() });
const minutes: number = found.predictions[0]! + found.version;
const late = await client.predict("is-late.v2", row, { version: 3 });
const label: 0 | 1 = late.predictions[0]!;
const sure: number[] = late.probabilities[0]!;
const { results } = await client.feedback("is-late.v2", { prediction_id: late.prediction_ids[0]!, label });
const accepted: boolean = results.every((result) => result.status === "accepted");
export { names, minutes, sure, accepted };
"""
WRONG = {
    "a misspelt feature": ('carrier: "AA"', 'carier: "AA"', "carier"),
    "a missing feature": (', carrier: "AA"', "", "carrier"),
    "a number as text": ("hour: 7", 'hour: "7"', "string"),
    "null where training saw none": ("hour: 7", "hour: null", "null"),
    "an unknown model": ('predict("is-late.v2"', 'predict("lat"', '"lat"'),
    "a label that is no class": ("label });", "label: 2 });", "2"),
    "numbers for a class": ("const label: 0 | 1", "const label: string", "string"),
    "probabilities of a regression": ("found.version", "found.probabilities", "probabilities"),
}


@pytest.fixture(scope="module")
def told(app: Path) -> dict[str, str]:
    """All files in one run of the compiler, which takes seconds to start."""
    sources = {"typed.mts": TYPED}
    for n, (old, new, _) in enumerate(WRONG.values()):
        assert TYPED.count(old) == 1
        sources[f"wrong-{n}.mts"] = TYPED.replace(old, new)
    (page,) = re.findall(r"^```ts\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    page = page.replace('"flight-time"', '"toy"')
    page = re.sub(r"(const row: .*? = ).*?;\n", lambda found: f"{found[1]}{json.dumps(ROW)};\n", page, flags=re.DOTALL)
    sources["page.mts"] = "declare const process: { env: Record<string, string> };\n" + page
    return compiled(app, sources)


@pytest.mark.parametrize("name", ["typed.mts", "page.mts"])
def test_an_app_that_keeps_to_the_contract_compiles(told: dict[str, str], name: str) -> None:
    """Models, rows, answers and labels have the types of what is deployed; the documentation's example too."""
    assert told[name] == ""


@pytest.mark.parametrize("fault", WRONG)
def test_an_app_that_does_not_keep_to_it_does_not_compile(told: dict[str, str], fault: str) -> None:
    """And the compiler points at the fault."""
    found = told[f"wrong-{[*WRONG].index(fault)}.mts"]
    assert "error TS" in found
    assert WRONG[fault][2] in found


def test_predictions_and_labels_from_node(app: Path, live: Live) -> None:
    """One row, several, a class with its probabilities, and what became of them."""
    source = f"""
    const rows = {json.dumps(HERE)};
    const [one, two, late] = [await client.predict("toy", rows[0]), await client.predict("toy", rows, {{ version: 1 }}),
      await client.predict("is-late.v2", rows)];
    const {{ results }} = await client.feedback("toy", [{{ prediction_id: one.prediction_ids[0], label: 1.5 }},
      {{ prediction_id: "x", label: 1 }}]);
    console.log(JSON.stringify([one, two, late, results.map((result) => result.status)]));
    """
    one, two, late, statuses = ran(app, source, URL=live.url, KEY=live.server.key)
    assert one["predictions"] == [answer(100, ROW)]
    assert (two["predictions"], two["arm"]) == ([answer(100, row) for row in HERE], "pinned")
    assert [round(sum(p), 5) for p in late["probabilities"]] == [1.0, 1.0]
    assert statuses == ["accepted", "rejected"]


def test_refusals_come_with_their_facts(app: Path, live: Live) -> None:
    """The fields of a 422, a wrong key, a model that is not there, and a value that JSON would have hidden."""
    source = f"""
    const row = {json.dumps(ROW)};
    const {{ carrier, ...rest }} = row;
    const wrong = await refused(client.predict("toy", {{ ...rest, hour: "7", carier: carrier }}));
    const stranger = await refused(new Perene(process.env.URL, {{ key: "prn_no" }}).predict("toy", row));
    const unknown = await refused(client.predict("toi", row));
    const infinite = await refused(client.predict("toy", {{ ...row, temp: 1 / 0 }}));
    console.log(JSON.stringify([wrong, stranger, unknown, infinite].map((error) => [error instanceof PereneError,
      error.status, error.code, error.errors.map((field) => [field.where, field.hint]), error.requestId.length])));
    """
    wrong, stranger, unknown, infinite = ran(app, source, URL=live.url, KEY=live.server.key)
    assert wrong[:3] == [True, 422, "contract_violation"]
    assert ["rows[0].carier", "did you mean 'carrier'?"] in wrong[3]
    assert "rows[0].hour" in [where for where, _ in wrong[3]]
    assert wrong[4] == 36
    assert stranger[:3] == [True, 401, "unauthenticated"]
    assert unknown[:3] == [True, 404, "model_unknown"]
    assert infinite[:3] == [True, 0, "contract_violation"]


def test_what_passes_is_tried_again_and_named_by_one_key(app: Path, live: Live) -> None:
    """A lost answer and a 503 that asks for a second; a call that is taken back ends at once."""
    source = f"""
    const row = {json.dumps(ROW)};
    const found = await client.predict("toy", row);
    const given_up = await refused(client.predict("toy", row, {{ signal: AbortSignal.abort() }}));
    const nobody = new Perene("http://127.0.0.1:9", {{ retries: 1 }});
    const lost = await refused(nobody.predict("toy", row));
    console.log(JSON.stringify([found.predictions, given_up.name, lost.code, lost.status]));
    """
    with gate(live.server.port, CUT, refusal("503 Service Unavailable", "retry-after: 1")) as way:
        found = ran(app, source, URL=way.url, KEY=live.server.key)
        keys = way.header("idempotency-key")
    assert found == [[answer(100, ROW)], "AbortError", "unreachable", 0]
    assert (len(keys), len(set(keys))) == (3, 1)
    assert way.times[2] - way.times[1] >= 0.99  # Node counts whole milliseconds


def test_the_document_suits_generators(live: Live) -> None:
    """Ids of operations are identifiers that occur once; every schema has a name that is allowed, and is there."""
    status, document = live.server.ask("GET", "/openapi.json")
    assert status == 200
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids) > 20
    assert all(re.fullmatch(r"[A-Za-z_]\w*", name) for name in ids)
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert named <= document["components"]["schemas"].keys()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in document["components"]["schemas"])


def test_the_lock_names_no_host_of_packages() -> None:
    """It pins by version and digest; where the packages come from is the machine's choice."""
    lock = json.loads((ROOT / "clients" / "js" / "package-lock.json").read_text())
    assert [name for name, package in lock["packages"].items() if name and "integrity" not in package] == []
    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []
