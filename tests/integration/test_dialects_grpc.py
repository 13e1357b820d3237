"""The Open Inference Protocol over gRPC: the same answers, keys, errors and counts as over HTTP."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from serving.dialects import grpc_service
from serving.dialects.grpc_service import METHODS
from serving.dialects.proto import messages
from tests.integration.dialect_models import CONTRACTS, rows_of
from tests.integration.serving_app import metrics, run
from tests.integration.serving_toy import Cache, Served, serving
from tests.integration.test_dialects import binary, oip_inputs

CONTENTS = {
    "FP64": "fp64_contents",
    "INT64": "int64_contents",
    "BOOL": "bool_contents",
    "BYTES": "bytes_contents",
}


class Client:
    """Calls by name, with a key."""

    def __init__(self, channel: grpc.aio.Channel, key: str) -> None:
        self._channel = channel
        self._key = key

    async def send(self, method: str, sent: bytes, **metadata: str) -> Any:
        """The answer to these bytes."""
        service = "grpc.health.v1.Health" if method == "Check" else "inference.GRPCInferenceService"
        answer = {"Check": "HealthCheckResponse"}.get(method, f"{method}Response")
        call = self._channel.unary_unary(f"/{service}/{method}", response_deserializer=messages()[answer].FromString)
        headers = {"authorization": f"Bearer {self._key}", **{k.replace("_", "-"): v for k, v in metadata.items()}}
        return await call(sent, metadata=tuple(headers.items()), timeout=30)

    async def call(self, method: str, **fields: Any) -> Any:
        """The answer to a message of these fields."""
        request = {"Check": "HealthCheckRequest"}.get(method, f"{method}Request")
        return await self.send(method, messages()[request](**fields).SerializeToString())

    async def refused(self, code: grpc.StatusCode, sent: bytes, method: str = "ModelInfer", **metadata: str) -> str:
        """What it says where it must refuse."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.send(method, sent, **metadata)
        assert caught.value.code() == code, caught.value.details()
        details: str = caught.value.details()
        assert len(details) <= 2_000
        return details


@contextlib.asynccontextmanager
async def talking(cache: Cache, key: str, **settings: Any) -> AsyncIterator[tuple[Served, Client]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,  # outlives the server
        serving(cache, key, grpc_port=port, **settings) as served,
    ):
        yield served, Client(channel, key)


def infer_request(name: str, rows: list[dict[str, Any]], *, raw: bool, **more: Any) -> Any:
    contract = CONTRACTS[name]
    request = messages()["ModelInferRequest"](model_name=name, **more)
    nullable = {column.name for column in contract.columns if column.nullable}
    for tensor in oip_inputs(contract, rows):
        given = request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        if raw:
            request.raw_input_contents.append(binary(tensor))
            continue
        values = tensor["data"]
        if tensor["datatype"] == "BYTES":
            values = [(value or "").encode() for value in values]
        elif tensor["name"] in nullable:
            values = [float("nan") if value is None else value for value in values]
        getattr(given.contents, CONTENTS[tensor["datatype"]]).extend(values)
    return request


def typed(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for output in answer.outputs:
        values = list(getattr(output.contents, CONTENTS[output.datatype]))
        if output.datatype == "BYTES":
            values = [value.decode() for value in values]
        if len(output.shape) == 2:
            width = output.shape[1]
            values = [values[n : n + width] for n in range(0, len(values), width)]
        found[output.name] = values
    return found


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_typed_and_raw_contents_answer_as_http_does(name: str, every: tuple[Cache, str]) -> None:
    """For every kind of output, with the ids and the arm beside."""
    cache, key = every
    rows = rows_of(CONTRACTS[name], 11)

    async def scenario() -> None:
        async with talking(cache, key) as (served, client):
            own = (await served.client.post(f"/models/{name}/predict", json={"rows": rows})).json()
            wanted: dict[str, Any] = {"prediction": own["predictions"]}
            if CONTRACTS[name].output.classes:
                beside = "scores" if "scores" in own else "probabilities"
                wanted = {"label": own["predictions"], beside: own[beside]}
            request = infer_request(name, rows, raw=False, id="7", model_version="1")
            answer = await client.send("ModelInfer", request.SerializeToString())
            assert typed(answer) == wanted
            assert (answer.model_name, answer.model_version, answer.id) == (name, "1", "7")
            assert len(answer.parameters["prediction_ids"].string_param.split(",")) == 11
            request = infer_request(name, rows, raw=True)
            request.outputs.add(name=next(iter(wanted)))
            answer = await client.send("ModelInfer", request.SerializeToString())
            assert [output.name for output in answer.outputs] == [next(iter(wanted))]
            assert len(answer.raw_output_contents) == 1
            samples = await metrics(served)
            assert samples["perene_requests_total", (name, "1", "pinned", "grpc", "200")] == 1
            assert samples["perene_requests_total", (name, "1", "champion", "grpc", "200")] == 1

    run(scenario)


def test_metadata_readiness_and_health(every: tuple[Cache, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As over HTTP; a watch of the health is told at once and ends with the server."""
    cache, key = every
    # a server that waited for the watch to end by itself would outlast the time that this test has
    monkeypatch.setattr(grpc_service, "DRAIN_S", 3_600.0)

    async def scenario() -> None:
        async with talking(cache, key) as (served, client):
            assert (await client.call("ServerLive")).live
            assert (await client.call("ServerReady")).ready
            assert (await client.call("ServerMetadata")).name == "perene"
            assert (await client.call("ModelReady", name="words", version="1")).ready
            meta = await client.call("ModelMetadata", name="words")
            told = (await served.client.get("/v2/models/words")).json()
            assert [(i.name, i.datatype, list(i.shape)) for i in (*meta.inputs, *meta.outputs)] == [
                tuple(i.values()) for i in (*told["inputs"], *told["outputs"])
            ]
            index = await client.call("RepositoryIndex")
            assert {(m.name, m.version, m.state) for m in index.models} == {(n, "1", "READY") for n in CONTRACTS}
            assert (await client.call("Check")).status == 1
            assert (await client.call("Check", service="inference.GRPCInferenceService")).status == 1
            unknown = messages()["HealthCheckRequest"](service="x").SerializeToString()
            await client.refused(grpc.StatusCode.NOT_FOUND, unknown, "Check")
            watch = client._channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
            assert messages()["HealthCheckResponse"].FromString(await watch.read()).status == 1

    run(scenario)


def test_every_method_asks_for_its_scope(every: tuple[Cache, str]) -> None:
    """Each method by each key: what HTTP refuses is refused here."""
    cache, _ = every
    everything = {"predict", "feedback", "read"}
    keys = {
        "": (set[str](), set[str]()),
        "prn_00000000_" + "x" * 43: (set[str](), set[str]()),
        **{cache.key({scope}): ({scope}, set[str]()) for scope in everything},
        cache.key(everything, {"words"}): (everything, {"words"}),
        cache.key(everything, {"truth"}): (everything, {"truth"}),
        cache.key({"admin"}): ({"admin"}, set[str]()),
    }
    cache.deploy(1, model="words")
    infer = infer_request("words", rows_of(CONTRACTS["words"], 1), raw=False).SerializeToString()
    named = messages()["ModelReadyRequest"](name="words").SerializeToString()
    load = messages()["RepositoryModelLoadRequest"](model_name="words").SerializeToString()
    bodies = {"ModelInfer": infer, "ModelReady": named, "ModelMetadata": named, "RepositoryModelLoad": load}

    async def scenario() -> None:
        async with talking(cache, "") as (_, client):
            for method, (scope, _) in METHODS.items():
                for key, (scopes, models) in keys.items():
                    body = bodies.get(method, b"")
                    allowed = scope in scopes and scope != "admin" and (not models or "words" in models or not body)
                    for metadata in ({"authorization": f"Bearer {key}"}, {"x_api_key": key, "authorization": ""}):
                        if scope is None or allowed:
                            await client.send(method, body, **metadata)
                            continue
                        code = grpc.StatusCode.PERMISSION_DENIED if scopes else grpc.StatusCode.UNAUTHENTICATED
                        assert key == "" or key not in await client.refused(code, body, method, **metadata)

    run(scenario)


def test_bad_calls_are_refused_by_status(every: tuple[Cache, str]) -> None:
    """Bytes that are no message, contents that do not agree, unknown models, too much; and then a good call."""
    cache, key = every
    rows = rows_of(CONTRACTS["words"], 2)
    good = infer_request("words", rows, raw=True)

    def changed(**fields: Any) -> bytes:
        request = messages()["ModelInferRequest"]()
        request.CopyFrom(good)
        for name, value in fields.items():
            if name == "raw":
                request.raw_input_contents[value[0]] = value[1]
            elif name == "shape":
                del request.inputs[0].shape[:]
                request.inputs[0].shape.extend(value)
            elif name in ("datatype", "name"):
                setattr(request.inputs[0], name, value)
            else:
                setattr(request, name, value)
        return bytes(request.SerializeToString())

    both = messages()["ModelInferRequest"]()
    both.CopyFrom(good)
    both.inputs[0].contents.fp64_contents.extend([1.0, 2.0])
    fewer = messages()["ModelInferRequest"]()
    fewer.CopyFrom(good)
    del fewer.raw_input_contents[1:]
    half = infer_request("words", rows, raw=False)
    half.inputs[0].datatype = "FP16"
    bad = grpc.StatusCode.INVALID_ARGUMENT
    cases = [
        (bad, b"\xff\xff\xff"),
        (grpc.StatusCode.NOT_FOUND, b""),  # a message without a model's name
        (bad, changed(shape=[3])),
        (bad, changed(shape=[-2])),
        (bad, changed(shape=[2**62, 4])),
        (bad, changed(shape=[1, 1, 2])),
        (bad, changed(datatype="FP128")),
        (bad, changed(datatype="BYTES")),
        (bad, changed(name="tmp")),
        (bad, changed(raw=(1, b"\xff\xff\xff\xffAA"))),
        (bad, changed(raw=(1, b"\x01\0\0\0\xff\x01\0\0\0\xff"))),
        (bad, changed(raw=(3, b"\x02\x01"))),
        (bad, both.SerializeToString()),
        (bad, fewer.SerializeToString()),
        (bad, half.SerializeToString()),
        (grpc.StatusCode.NOT_FOUND, changed(model_name="wards")),
        (grpc.StatusCode.NOT_FOUND, changed(model_version="9")),
        (grpc.StatusCode.NOT_FOUND, changed(model_version="x")),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, changed(id="x" * 70_000)),
    ]

    async def scenario() -> None:
        async with talking(cache, key, max_body_bytes=64 * 1024, max_rows=100) as (served, client):
            for n, (code, sent) in enumerate(cases):
                details = await client.refused(code, sent)
                assert "Traceback" not in details, n
            assert "did you mean 'temp'?" in await client.refused(bad, changed(name="tmp"))
            many = infer_request("single", [{"hour": 1}] * 101, raw=True).SerializeToString()
            assert "too many rows" in await client.refused(grpc.StatusCode.RESOURCE_EXHAUSTED, many)
            await client.send("ModelInfer", changed())
            served.app.state.service.plane = None
            assert await client.refused(grpc.StatusCode.INTERNAL, changed()) == "the server failed on this call"

    run(scenario)


def test_a_port_that_is_taken_is_a_configuration_error(every: tuple[Cache, str]) -> None:
    """Named, with the key to change."""
    from registry.errors import ConfigInvalid

    cache, key = every

    async def scenario() -> None:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            with pytest.raises(ConfigInvalid, match="grpc_port"):
                async with serving(cache, key, grpc_port=holder.getsockname()[1]):
                    pass

    run(scenario)
