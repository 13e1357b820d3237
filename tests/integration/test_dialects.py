"""One behaviour in every dialect: the same rows get the same answers, whatever they are spelled in."""

from __future__ import annotations

import csv
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitoring.intake.events import PredictionEvent
from registry.contract import Contract
from tests.integration.dialect_models import CONTRACTS, make_bundle, rows_of
from tests.integration.serving_app import SCOPES, metrics, run
from tests.integration.serving_toy import Cache, Served, serving, stored_events

JSON = {"content-type": "application/json"}
NUMPY = {"BOOL": "?", "INT64": "<i8", "FP32": "<f4", "FP64": "<f8"}


async def asked(served: Served, path: str, body: Any, **headers: str) -> Any:
    """The answer to a request that must succeed."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = await served.client.post(path, content=content, headers={**JSON, **headers})
    assert reply.status_code == 200, (path, reply.text[:500])
    assert reply.headers["x-prediction-id"]
    return reply


def columns_of(contract: Contract, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in contract.names}


def oip_inputs(contract: Contract, rows: list[dict[str, Any]], *, nested: bool = False) -> list[dict[str, Any]]:
    """A tensor for each column, as the protocol's JSON."""
    types = {"float": "FP64", "int": "INT64", "bool": "BOOL", "string": "BYTES"}
    made = []
    for column in contract.columns:
        values = [row[column.name] for row in rows]
        data = [[value] for value in values] if nested else values
        shape = [len(rows), 1] if nested else [len(rows)]
        made.append({"name": column.name, "datatype": types[column.dtype], "shape": shape, "data": data})
    return made


def binary(tensor: dict[str, Any]) -> bytes:
    """The elements of a tensor as the protocol's bytes."""
    if tensor["datatype"] == "BYTES":
        encoded = [(value or "").encode() for value in tensor["data"]]
        return b"".join(struct.pack("<I", len(text)) + text for text in encoded)
    values = [float("nan") if value is None else value for value in tensor["data"]]
    return np.array(values, dtype=NUMPY[tensor["datatype"]]).tobytes()


def binary_body(inputs: list[dict[str, Any]], **more: Any) -> tuple[bytes, str]:
    """A body with tensors as bytes, and the length of its JSON."""
    blobs = [binary(tensor) for tensor in inputs]
    heads = [
        {**{k: v for k, v in tensor.items() if k != "data"}, "parameters": {"binary_data_size": len(blob)}}
        for tensor, blob in zip(inputs, blobs, strict=True)
    ]
    head = json.dumps({"inputs": heads, **more}).encode()
    return b"".join((head, *blobs)), str(len(head))


def unpacked(reply: Any) -> dict[str, Any]:
    """Outputs of a binary answer by name."""
    length = int(reply.headers["inference-header-content-length"])
    head, rest = json.loads(reply.content[:length]), reply.content[length:]
    found: dict[str, Any] = {}
    for output in head["outputs"]:
        size = output["parameters"]["binary_data_size"]
        blob, rest = rest[:size], rest[size:]
        if output["datatype"] == "BYTES":
            values: list[Any] = []
            while blob:
                end = 4 + struct.unpack_from("<I", blob)[0]
                values.append(blob[4:end].decode())
                blob = blob[end:]
        else:
            values = np.frombuffer(blob, dtype=NUMPY[output["datatype"]]).reshape(output["shape"]).tolist()
        found[output["name"]] = values
    assert rest == b""
    return found


def by_name(reply: Any) -> dict[str, Any]:
    """Outputs of a JSON answer by name, in their shapes."""
    found: dict[str, Any] = {}
    for output in reply.json()["outputs"]:
        values = output["data"]
        if len(output["shape"]) == 2:
            width = output["shape"][1]
            values = [values[n : n + width] for n in range(0, len(values), width)]
        assert len(values) == output["shape"][0]
        found[output["name"]] = values
    return found


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_every_dialect_answers_alike(name: str, every: tuple[Cache, str]) -> None:
    """Rows, columns, tensors, bytes and matrices: predictions and numbers beside them are those of Perene's own."""
    contract, (cache, key) = CONTRACTS[name], every
    rows = rows_of(contract, 17)
    columns = columns_of(contract, rows)
    lists = [list(row.values()) for row in rows]

    async def scenario() -> None:
        async with serving(cache, key, default_model=name) as served:
            own = (await asked(served, f"/models/{name}/predict", {"rows": rows})).json()
            beside = "scores" if "scores" in own else "probabilities"
            for body in ({"instances": rows}, {"instances": lists}, {"inputs": columns}, {"inputs": rows}):
                for pin in ("", "/versions/1", "/labels/champion"):
                    told = (await asked(served, f"/v1/models/{name}{pin}:predict", body)).json()
                    assert told["predictions" if "instances" in body else "outputs"] == own["predictions"]
                    assert told.get(beside) == own.get(beside)
            frame = {"columns": contract.names, "data": lists, "index": list(range(len(rows)))}
            forms: tuple[dict[str, Any], ...] = (
                {"dataframe_split": frame},
                {"dataframe_records": rows},
                {"instances": rows},
                {"inputs": columns},
            )
            for form in forms:
                told = (await asked(served, "/invocations", form)).json()
                assert told["predictions"] == own["predictions"]
            inputs = oip_inputs(contract, rows)
            wanted: dict[str, Any] = {"prediction": own["predictions"]}
            if contract.output.classes:
                wanted = {"label": own["predictions"], beside: own[beside]}
            for path in (f"/v2/models/{name}/infer", f"/v2/models/{name}/versions/1/infer"):
                for given in (inputs, oip_inputs(contract, rows, nested=True)):
                    reply = await asked(served, path, {"inputs": given, "id": "7"})
                    assert by_name(reply) == wanted
                    told = reply.json()
                    assert (told["model_name"], told["model_version"], told["id"]) == (name, "1", "7")
                    assert len(told["parameters"]["prediction_ids"].split(",")) == len(rows)
            content, length = binary_body(inputs, parameters={"binary_data_output": True})
            reply = await asked(served, path, content, **{"inference-header-content-length": length})
            assert unpacked(reply) == wanted

    run(scenario)


def test_matrices_stand_for_all_columns_of_their_kind(every: tuple[Cache, str]) -> None:
    """[N, F] numbers with 0 and 1 for booleans and NaN for null, and [N, S] text."""
    cache, key = every
    rows = rows_of(CONTRACTS["words"], 9)
    table = [[np.nan if r["temp"] is None else r["temp"], r["hour"], float(r["late"])] for r in rows]
    texts = [value for r in rows for value in (r["carrier"], r["gate"] or "")]
    inputs = [
        {"name": "input-0", "datatype": "FP32", "shape": [9, 3], "data": np.ravel(table).tolist()},
        {"name": "input-1", "datatype": "BYTES", "shape": [9, 2], "data": texts},
    ]

    async def scenario() -> None:
        async with serving(cache, key) as served:
            own = (await asked(served, "/models/words/predict", {"rows": rows})).json()
            content, length = binary_body(inputs, outputs=[{"name": "label", "parameters": {"binary_data": True}}])
            more = {"inference-header-content-length": length, "content-type": "application/octet-stream"}
            reply = await asked(served, "/v2/models/words/infer", content, **more)
            assert unpacked(reply) == {"label": own["predictions"]}
            path = served.spool.path
        events = [e for e in stored_events(path) if isinstance(e, PredictionEvent)]
        assert [e.features for e in events[9:]] == [e.features for e in events[:9]]
        assert [e.features for e in events[:9]] == [[r[n] for n in CONTRACTS["words"].names] for r in rows]

    run(scenario)


def test_events_hold_the_same_values_in_every_dialect(every: tuple[Cache, str]) -> None:
    """Types and nulls too, with the entity and the time of the event where a dialect has words for them."""
    cache, key = every
    contract = CONTRACTS["words"]
    rows = rows_of(contract, 5)
    about = {"entity": "a-1", "at": "2013-04-01T12:00:00Z"}
    headers = {"x-entity": "a-1", "x-event-time": "2013-04-01T12:00:00Z"}
    texts = io.StringIO()
    writer = csv.DictWriter(texts, contract.names)
    writer.writeheader()
    writer.writerows(rows)

    async def scenario() -> None:
        async with serving(cache, key, default_model="words") as served:
            await asked(served, "/models/words/predict", {"rows": rows, **about})
            await asked(served, "/models/words/predict", {"rows": rows}, **headers)
            said = {**headers, "x-entity": "somebody else"}  # the body goes before
            await asked(served, "/models/words/predict", {"rows": rows, **about}, **said)
            await asked(served, "/v1/models/words:predict", {"instances": rows}, **headers)
            await asked(served, "/v1/models/words:predict", {"inputs": columns_of(contract, rows), "parameters": about})
            await asked(served, "/v2/models/words/infer", {"inputs": oip_inputs(contract, rows), "parameters": about})
            await asked(served, "/invocations", {"dataframe_records": rows, "params": about})
            await asked(served, "/invocations", texts.getvalue().encode(), **headers, **{"content-type": "text/csv"})
            path = served.spool.path
        events = [e for e in stored_events(path) if isinstance(e, PredictionEvent)]
        assert len(events) == 40
        for n, event in enumerate(events):
            first = events[n % 5]
            assert (event.features, event.prediction, event.probabilities) == (
                first.features,
                first.prediction,
                first.probabilities,
            )
            assert [type(v) for v in event.features] == [type(v) for v in first.features]
            assert (event.at, event.entity) == (1364817600.0, first.entity)

    run(scenario)


def test_float64_is_not_narrowed(every: tuple[Cache, str]) -> None:
    """Integers beyond float32 and within float64, by JSON and by bytes; one beyond float64 is refused."""
    cache, key = every
    row = {"temp": 0.1, "hour": 2**53 - 1, "late": True}

    async def scenario() -> None:
        async with serving(cache, key, default_model="precise") as served:
            inputs = oip_inputs(CONTRACTS["precise"], [row])
            reply = await asked(served, "/v2/models/precise/infer", {"inputs": inputs})
            assert by_name(reply) == {"prediction": [2.0**53 - 1]}
            content, length = binary_body(inputs)
            more = {"inference-header-content-length": length}
            assert by_name(await asked(served, "/v2/models/precise/infer", content, **more)) == by_name(reply)
            assert (await asked(served, "/invocations", {"instances": [row]})).json()["predictions"] == [2.0**53 - 1]
            inputs[1]["data"] = [2**53 + 1]
            refused = await served.client.post("/v2/models/precise/infer", json={"inputs": inputs})
            assert refused.status_code == 422
            assert "too large to be exact" in refused.json()["error"]

    run(scenario)


def test_what_is_deployed_is_told_in_each_dialect(every: tuple[Cache, str]) -> None:
    """Metadata, readiness and lists; a key of one model sees that one."""
    cache, key = every
    one = cache.key({"read"}, {"words"})
    cache.deploy(1, model="words")

    async def scenario() -> None:
        async with serving(cache, key) as served:
            get = served.client.get
            meta = (await get("/v2/models/words")).json()
            assert (meta["name"], meta["versions"], meta["platform"]) == ("words", ["1"], "onnxruntime_onnx")
            assert [(i["name"], i["datatype"], i["shape"]) for i in meta["inputs"]] == [
                ("temp", "FP32", [-1]),
                ("carrier", "BYTES", [-1]),
                ("hour", "INT64", [-1]),
                ("late", "BOOL", [-1]),
                ("gate", "BYTES", [-1]),
            ]
            assert [(o["name"], o["datatype"], o["shape"]) for o in meta["outputs"]] == [
                ("label", "BYTES", [-1]),
                ("probabilities", "FP64", [-1, 3]),
            ]
            several = (await get("/v2/models/several/versions/1")).json()
            assert several["outputs"] == [{"name": "prediction", "datatype": "FP64", "shape": [-1, 2]}]
            assert (await get("/v2")).json()["extensions"] == ["binary_tensor_data", "model_repository"]
            for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/words/ready", "/ping", "/health"):
                assert (await get(path)).status_code == 200
            assert (await get("/v2/models/nope/ready")).status_code == 404
            assert (await get("/v1/models/words")).json()["model_version_status"][0]["state"] == "AVAILABLE"
            narrow = {"x-api-key": one}
            assert (await get("/v1/models", headers=narrow)).json() == {"models": ["words"]}
            index = (await served.client.post("/v2/repository/index", headers=narrow)).json()
            assert index == [{"name": "words", "version": "1", "state": "READY", "reason": ""}]
            assert len((await served.client.post("/v2/repository/index")).json()) == len(CONTRACTS)

    run(scenario)


def test_a_candidate_of_another_layout_reads_the_request_again(cache: Cache, toy_bundle: Path, tmp_path: Path) -> None:
    """In A/B it answers, in shadow it agrees: its columns have another order and another precision."""
    first = CONTRACTS["precise"]
    second = Contract("precise", tuple(reversed(first.columns)), first.output, "float32")
    cache.add(1, make_bundle(toy_bundle, tmp_path / "first", first), model="precise")
    cache.add(2, make_bundle(toy_bundle, tmp_path / "second", second), model="precise")
    key = cache.key(SCOPES)
    rows = rows_of(first, 6)
    columns = columns_of(first, rows)
    texts = "\n".join((",".join(columns), *(",".join(map(_cell, row.values())) for row in rows)))

    async def ask(served: Served) -> None:
        inputs = oip_inputs(first, rows)
        await asked(served, "/v2/models/precise/infer", {"inputs": inputs})
        content, length = binary_body(inputs)
        await asked(served, "/v2/models/precise/infer", content, **{"inference-header-content-length": length})
        await asked(served, "/v1/models/precise:predict", {"inputs": columns})
        await asked(served, "/invocations", texts.encode(), **{"content-type": "text/csv"})

    async def scenario() -> None:
        cache.deploy(1, 2, "ab", 1.0, model="precise")
        async with serving(cache, key) as served:
            await ask(served)
            cache.deploy(1, 2, "shadow", model="precise")

            async def shadowed() -> bool:
                return bool(served.app.state.service.table.models["precise"].route.mode == "shadow")

            await served.until(shadowed)
            await ask(served)
            found = await metrics(served)
            assert found["perene_rejected_total", ("candidate_failed",)] == 0
            assert found["perene_rejected_total", ("shadow_failed",)] == 0
            assert ("perene_shadow_disagreements_total", ("precise",)) not in found
            path = served.spool.path
        events = [e for e in stored_events(path) if isinstance(e, PredictionEvent)]
        arms = [e.arm for e in events]
        assert [arms.count(arm) for arm in ("candidate", "champion", "shadow")] == [24, 24, 24]
        hours = [float(row["hour"]) for row in rows]
        for n, event in enumerate(e for e in events if e.arm == "candidate"):
            row = rows[n % 6]
            assert (event.prediction, event.features) == (hours[n % 6], [row[c.name] for c in second.columns])

    run(scenario)


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def test_every_example_of_the_document_is_answered(every: tuple[Cache, str]) -> None:
    """For each kind of model and each dialect; identifiers are unique, and each status that comes is documented."""
    cache, key = every

    async def scenario() -> None:
        async with serving(cache, key, default_model="words") as served:
            paths = (await served.client.get("/openapi.json")).json()["paths"]
            names = [operation["operationId"] for item in paths.values() for operation in item.values()]
            assert len(set(names)) == len(names)
            answered = 0
            for path, item in paths.items():
                for method, operation in item.items():
                    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
                    if path.endswith("/explain"):
                        assert (await served.client.post(path, json=content["example"])).status_code == 200
                    elif "example" in content:
                        await asked(served, path, content["example"])
                        answered += 1
                    reply = await served.client.request(method, path, json={})
                    assert str(reply.status_code) in operation["responses"], (method, path)
            # Perene's own, the second protocol and KServe's, each with a version beside, the last with a label too; and
            # the default model without its name
            assert answered == len(CONTRACTS) * (2 + 2 + 3) + 1

    run(scenario)
