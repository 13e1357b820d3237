"""Bad input in every dialect gets its documented status, small, in its own envelope, without a value echoed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from tests.integration.dialect_models import CONTRACTS, rows_of
from tests.integration.serving_app import SCOPES, SECRET, metrics, run
from tests.integration.serving_toy import Cache, pole_bundle, serving
from tests.integration.test_dialects import binary_body, oip_inputs

JSON = "application/json"
ROWS = rows_of(CONTRACTS["words"], 2)
INPUTS = oip_inputs(CONTRACTS["words"], ROWS)
Case = tuple[str, bytes, int]


def infer(place: int = 0, **changes: Any) -> bytes:
    """A good request with one input changed."""
    inputs = [dict(tensor) for tensor in INPUTS]
    inputs[place].update(changes)
    return json.dumps({"inputs": inputs}).encode()


def row(**changes: Any) -> dict[str, Any]:
    return {**ROWS[0], **changes}


def matrix(shape: list[int], data: list[float]) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": data}]}).encode()


OIP: list[Case] = [
    ("empty", b"", 400),
    ("not JSON", b"{", 400),
    ("a list", b"[]", 400),
    ("a scalar", b"7", 400),
    ("deep", b"[" * 30_000, 400),
    ("deep objects", b'{"inputs":' * 6_000, 400),
    ("NaN", infer(2, data=[1, 2]).replace(b"[1, 2]", b"[NaN, 1]"), 400),
    ("byte order mark", b"\xef\xbb\xbf" + infer(), 400),
    ("utf-16", infer().decode().encode("utf-16"), 400),
    ("lone surrogate", infer(1, data=["\ud800", "x"]), 400),
    ("a key twice", infer().replace(b'{"name": "temp"', b'{"name": "temp", "name": "hour"'), 400),
    ("no inputs", b"{}", 400),
    ("inputs are none", b'{"inputs": []}', 400),
    ("inputs of texts", json.dumps({"inputs": [SECRET]}).encode(), 400),
    ("outputs of texts", json.dumps({"inputs": INPUTS, "outputs": [SECRET]}).encode(), 400),
    ("parameters of text", json.dumps({"inputs": INPUTS, "parameters": SECRET}).encode(), 400),
    ("no shape", json.dumps({"inputs": [{"name": "temp", "datatype": "FP32", "data": [1]}]}).encode(), 400),
    ("shape and data", infer(shape=[3]), 400),
    ("negative shape", infer(shape=[-2]), 400),
    ("two negative shapes", infer(shape=[-1, -2]), 400),
    ("overflowing shape", infer(shape=[2**62, 4]), 400),
    ("shape beyond 64 bits", infer(shape=[2**70]), 400),
    ("endless shape", infer(shape=[10**30]), 400),
    ("shape of fractions", infer(shape=[2.5]), 400),
    ("shape of truths", infer(shape=[True]), 400),
    ("no dimension", infer(shape=[]), 400),
    ("three dimensions", infer(shape=[2, 1, 1]), 400),
    ("many dimensions", infer(shape=[1] * 1_000), 400),
    ("unknown data type", infer(datatype="FP128"), 400),
    ("data type of another case", infer(datatype="fp32"), 400),
    ("data type is a number", infer(datatype=7), 400),
    ("no data", infer(data=None), 400),
    ("data is text", infer(data=SECRET), 400),
    ("text in numbers", infer(data=[SECRET, 1.0]), 400),
    ("truth in numbers", infer(data=[True, 1.0]), 400),
    ("number in texts", infer(1, data=[1, 2]), 400),
    ("fraction in integers", infer(2, data=[1.5, 2]), 400),
    ("integer beyond its type", infer(2, datatype="INT8", data=[300, 1]), 400),
    ("negative in unsigned", infer(2, datatype="UINT8", data=[-1, 1]), 400),
    ("ragged", infer(data=[[1.0], [1.0, 2.0]]), 400),
    ("nested too deep", infer(data=[[[1.0]], [[2.0]]]), 400),
    ("columns of another length", infer(shape=[1], data=[1.0]), 400),
    ("a column twice", json.dumps({"inputs": [*INPUTS, INPUTS[0]]}).encode(), 400),
    ("a matrix too wide", matrix([1, 9], [0.0] * 9), 400),
    ("an output that there is not", json.dumps({"inputs": INPUTS, "outputs": [{"name": SECRET[:3]}]}).encode(), 400),
    ("unknown column", json.dumps({"inputs": [*INPUTS, {**INPUTS[0], "name": "tmp"}]}).encode(), 422),
    ("a column missing", json.dumps({"inputs": INPUTS[1:]}).encode(), 422),
    ("mis-cased", infer(name="Temp"), 422),
    ("null where none may be", infer(2, data=[None, 1]), 422),
    ("NaN for an integer", infer(2, datatype="FP64", data=[None, 1.0]), 422),
    ("a fraction for an integer", infer(2, datatype="FP64", data=[1.5, 1.0]), 422),
    ("numbers for a truth", infer(3, datatype="INT64", data=[1, 0]), 422),
    ("numbers for a text", infer(1, datatype="INT64", data=[1, 0]), 422),
    ("texts for a number", infer(0, datatype="BYTES", data=[SECRET, SECRET]), 422),
    ("2^53 + 1", infer(2, data=[2**53 + 1, 1]), 422),
    ("beyond float32", infer(data=[1e39, 1.0]), 422),
    ("1e999", infer(data=[1.0, 2.5]).replace(b"2.5", b"1e999"), 422),
    ("no rows", json.dumps({"inputs": [{**t, "shape": [0], "data": []} for t in INPUTS]}).encode(), 422),
    ("an endless empty matrix", matrix([10**12, 0], []), 413),
    ("too many rows", json.dumps({"inputs": oip_inputs(CONTRACTS["words"], ROWS * 11)}).encode(), 413),
    ("too long", infer(1, data=["x" * 70_000, ""]), 413),
    ("no time", json.dumps({"inputs": INPUTS, "parameters": {"at": SECRET}}).encode(), 422),
    ("entity of another type", json.dumps({"inputs": INPUTS, "parameters": {"entity": [SECRET]}}).encode(), 422),
]  # fmt: skip


def binary_cases() -> list[tuple[str, bytes, str, int]]:
    """Bodies with tensors as bytes, and what their header says of the JSON's length."""
    content, length = binary_body(INPUTS)
    size = int(length)
    head = json.loads(content[:size])

    def resized(place: int, to: Any) -> tuple[bytes, str]:
        changed = json.loads(content[:size])
        changed["inputs"][place]["parameters"]["binary_data_size"] = to
        text = json.dumps(changed).encode()
        return text + content[size:], str(len(text))

    def with_blob(place: int, blob: bytes, **changes: Any) -> tuple[bytes, str]:
        blobs, rest = [], content[size:]
        for tensor in head["inputs"]:
            taken = tensor["parameters"]["binary_data_size"]
            blobs.append(rest[:taken])
            rest = rest[taken:]
        blobs[place] = blob
        changed = json.loads(content[:size])
        changed["inputs"][place].update(changes, parameters={"binary_data_size": len(blob)})
        text = json.dumps(changed).encode()
        return b"".join((text, *blobs)), str(len(text))

    made: list[tuple[str, tuple[bytes, str], int]] = [
        ("length past the end", (content, str(len(content) + 1)), 400),
        ("length of 30 digits", (content, "9" * 30), 400),
        ("negative length", (content, "-1"), 400),
        ("length is a text", (content, "x"), 400),
        ("no JSON", (content, "0"), 400),
        ("JSON cut", (content, str(size - 1)), 400),
        ("a byte too few", (content[:-1], length), 400),
        ("a byte too many", (content + b"\0", length), 400),
        ("size larger", resized(0, 17), 400),
        ("size smaller", resized(0, 15), 400),
        ("size negative", resized(0, -1), 400),
        ("size endless", resized(0, 2**63), 400),
        ("size is a text", resized(0, SECRET), 400),
        ("size is a truth", resized(0, True), 400),
        ("data and size", (content[:size].replace(b'"shape"', b'"data": [1], "shape"', 1), str(size + 13)), 400),
        ("text past the end", with_blob(1, struct.pack("<I", 9) + b"AA"), 400),
        ("text of 4 GB", with_blob(1, b"\xff\xff\xff\xff"), 400),
        ("text of negative length", with_blob(1, struct.pack("<i", -1) + struct.pack("<i", -1)), 400),
        ("texts too few", with_blob(1, struct.pack("<I", 0)), 400),
        ("texts too many", with_blob(1, struct.pack("<I", 0) * 3), 400),
        ("an endless shape of texts", with_blob(1, struct.pack("<I", 0) * 2, shape=[10**12]), 413),
        ("not UTF-8", with_blob(1, (struct.pack("<I", 1) + b"\xff") * 2), 400),
        ("a truth of 2", with_blob(3, b"\x02\x01"), 400),
        ("infinite", with_blob(0, struct.pack("<2d", float("inf"), 1)), 422),
        ("integers beyond float", with_blob(2, struct.pack("<2q", -(2**63), 2**63 - 1)), 422),
        ("unsigned beyond float", with_blob(2, struct.pack("<2Q", 2**64 - 1, 1), datatype="UINT64"), 422),
        ("infinite half", with_blob(0, b"\x00\x7c\x00\x00", datatype="FP16"), 422),
    ]
    return [(name, sent, said, status) for name, (sent, said), status in made]


V1: list[Case] = [
    ("neither", b"{}", 400),
    ("both", json.dumps({"instances": ROWS, "inputs": ROWS}).encode(), 400),
    ("a list", b"[]", 400),
    ("not JSON", b"{", 400),
    ("a key twice", b'{"instances": [1], "instances": [2]}', 400),
    ("another signature", json.dumps({"instances": ROWS, "signature_name": SECRET}).encode(), 422),
    ("instances is no list", json.dumps({"instances": SECRET}).encode(), 422),
    ("no instances", b'{"instances": []}', 422),
    ("no columns", b'{"inputs": {}}', 422),
    ("empty columns", b'{"inputs": {"temp": []}}', 422),
    ("ragged", json.dumps({"instances": [list(ROWS[0].values()), [1.0]]}).encode(), 422),
    ("rows of two kinds", json.dumps({"instances": [ROWS[0], [1.0]]}).encode(), 422),
    ("rows of two kinds, lists first", json.dumps({"instances": [list(ROWS[0].values()), ROWS[0]]}).encode(), 422),
    ("unknown", json.dumps({"instances": [row(extra=SECRET)]}).encode(), 422),
    ("missing", json.dumps({"instances": [{"temp": 1.0}]}).encode(), 422),
    ("two lengths", json.dumps({"inputs": {**{k: [v] for k, v in ROWS[0].items()}, "temp": []}}).encode(), 422),
    ("values and lists", json.dumps({"inputs": {**ROWS[0], "hour": [1]}}).encode(), 422),
    ("wrong type", json.dumps({"instances": [row(hour=SECRET)]}).encode(), 422),
    ("truth for a number", json.dumps({"instances": [row(hour=True)]}).encode(), 422),
    ("number for a truth", json.dumps({"instances": [row(late=1)]}).encode(), 422),
    ("text for a truth", json.dumps({"instances": [row(late="false")]}).encode(), 422),
    ("list for a text", json.dumps({"instances": [row(carrier=[SECRET])]}).encode(), 422),
    ("null", json.dumps({"instances": [row(hour=None)]}).encode(), 422),
    ("fraction", json.dumps({"instances": [row(hour=1.5)]}).encode(), 422),
    ("400 digits", json.dumps({"instances": [row(hour=10**400)]}).encode(), 422),
    ("5,000 digits", json.dumps({"instances": [row(hour=7)]}).encode().replace(b": 7", b": " + b"9" * 5_000), 422),
    ("1e999", json.dumps({"instances": [row(temp=2.5)]}).encode().replace(b"2.5", b"1e999"), 422),
    ("many unknown", json.dumps({"instances": [{f"{'x' * 500}{i}": SECRET for i in range(100)}]}).encode(), 422),
    ("too many rows", json.dumps({"instances": ROWS * 11}).encode(), 413),
]  # fmt: skip


MLFLOW: list[Case] = [
    ("no form", b"{}", 400),
    ("two forms", json.dumps({"instances": ROWS, "inputs": ROWS}).encode(), 400),
    ("a list", json.dumps(ROWS).encode(), 400),
    ("not JSON", b"{", 400),
    ("lone surrogate beside NaN", b'{"instances": [{"temp": NaN, "carrier": "\\ud800"}]}', 400),
    ("split is a list", b'{"dataframe_split": []}', 422),
    ("split without data", b'{"dataframe_split": {"columns": ["temp"]}}', 422),
    ("split with a column twice", b'{"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}', 422),
    ("split ragged", b'{"dataframe_split": {"columns": ["temp", "hour"], "data": [[1]]}}', 422),
    ("split without rows", json.dumps({"dataframe_split": {"columns": list(ROWS[0]), "data": []}}).encode(), 422),
    ("a fraction for an integer", json.dumps({"instances": [row(hour=1.5)]}).encode(), 422),
    ("a text that is no number", json.dumps({"instances": [row(hour=SECRET)]}).encode(), 422),
    ("a text of a fraction", json.dumps({"instances": [row(hour="1.5")]}).encode(), 422),
    ("a text that says infinity", json.dumps({"instances": [row(temp="inf")]}).encode(), 422),
    ("a text that says NaN", json.dumps({"instances": [row(temp="nan")]}).encode(), 422),
    ("2 for a truth", json.dumps({"instances": [row(late=2)]}).encode(), 422),
    ("yes for a truth", json.dumps({"instances": [row(late="yes")]}).encode(), 422),
    ("truth for a text", json.dumps({"instances": [row(carrier=True)]}).encode(), 422),
    ("fraction for a text", json.dumps({"instances": [row(carrier=1.5)]}).encode(), 422),
    ("infinity", json.dumps({"instances": [row(temp=float("inf"))]}).encode(), 422),
    ("NaN for an integer", json.dumps({"instances": [row(hour=float("nan"))]}).encode(), 422),
    ("missing", json.dumps({"dataframe_records": [{"temp": 1.0}]}).encode(), 422),
    ("params of another type", json.dumps({"instances": ROWS, "params": {"at": 7}}).encode(), 422),
    ("too many rows", json.dumps({"instances": ROWS * 11}).encode(), 413),
]
HEADER = "temp,carrier,hour,late,gate\n"
CSVS: list[Case] = [
    ("header only", HEADER.encode(), 422),
    ("no header", b"\n", 422),
    ("missing column", b"temp,carrier\n1,AA\n", 422),
    ("a column twice", (HEADER[:-1] + ",temp\n1,AA,3,true,B2,1\n").encode(), 422),
    ("a cell too few", (HEADER + "1,AA,3,true\n").encode(), 400),
    ("a cell too many", (HEADER + "1,AA,3,true,B2,9\n").encode(), 400),
    ("unclosed quote", (HEADER + '1,"AA,3,true,B2\n').encode(), 400),
    ("semicolons", (HEADER.replace(",", ";") + "1;AA;3;true;B2\n").encode(), 422),
    ("NUL", (HEADER + "1,A\0A,3,true,B2\n").encode(), 400),
    ("not UTF-8", HEADER.encode() + b"1,\xff,3,true,B2\n", 400),
    ("a cell of 60 kB is none of CSV's business", (HEADER + f"1,{'x' * 60_000},3.5,true,B2\n").encode(), 422),
    ("a number that is none", (HEADER + f"{SECRET},AA,3,true,B2\n").encode(), 422),
    ("no number where one must be", (HEADER + "1,AA,,true,B2\n").encode(), 422),
    ("a fraction for an integer", (HEADER + "1,AA,3.5,true,B2\n").encode(), 422),
    ("too many rows", (HEADER + "1,AA,3,true,B2\n" * 21).encode(), 413),
]


async def refused(client: Any, path: str, case: Case, media: str = JSON, **headers: str) -> Any:
    """The body of a refusal that keeps every promise about refusals."""
    name, content, status = case
    sent = {"content-type": media, **{k.replace("_", "-"): v for k, v in headers.items()}}
    reply = await client.post(path, content=content, headers=sent)
    assert reply.status_code == status, (path, name, reply.text[:500])
    assert len(reply.content) <= 16 * 1024, name
    assert SECRET not in reply.text, name
    assert "Traceback" not in reply.text, name
    assert reply.headers["x-request-id"], name
    return reply.json()


def test_bad_bodies_are_refused_in_each_dialect(every: tuple[Cache, str]) -> None:
    """Each with its status and its envelope; every status is documented; and each route then answers a good request."""
    cache, key = every

    async def scenario() -> None:
        async with serving(cache, key, default_model="words", max_rows=20, max_body_bytes=64 * 1024) as served:
            client = served.client
            paths = (await client.get("/openapi.json")).json()["paths"]
            for path, cases, good in (
                ("/v2/models/words/infer", OIP, infer()),
                ("/v1/models/words:predict", V1, json.dumps({"instances": ROWS}).encode()),
                ("/invocations", MLFLOW, json.dumps({"instances": ROWS}).encode()),
            ):
                for case in cases:
                    body = await refused(client, path, case)
                    assert set(body) == ({"error_code", "message"} if path == "/invocations" else {"error"}), case[0]
                    assert str(case[2]) in paths[path]["post"]["responses"]
                reply = await client.post(path, content=good, headers={"content-type": JSON})
                assert reply.status_code == 200, reply.text
            for name, content, length, status in binary_cases():
                more = {"inference_header_content_length": length}
                await refused(client, "/v2/models/words/infer", (name, content, status), **more)
            for case in CSVS:
                await refused(client, "/invocations", case, "text/csv")
            # tensors as bytes without the header that says where they begin
            body = ("no header", binary_body(INPUTS)[0], 400)
            await refused(client, "/v2/models/words/infer", body)

    run(scenario)


def test_refusals_say_what_was_perhaps_meant(every: tuple[Cache, str]) -> None:
    """The place, what was expected, the type that came and the nearest name, in one line."""
    cache, key = every

    async def scenario() -> None:
        async with serving(cache, key, default_model="words") as served:
            told = await refused(served.client, "/v2/models/words/infer", ("", infer(name="tmp"), 422))
            assert "tmp: unknown feature" in told["error"]
            assert "did you mean 'temp'?" in told["error"]
            case = ("", json.dumps({"instances": [row(hour="7", late=1)]}).encode(), 422)
            told = await refused(served.client, "/v1/models/words:predict", case)
            assert told["error"] == (
                "rows[0].hour: expected integer, got string; rows[0].late: expected boolean, got integer"
            )
            told = await refused(served.client, "/v1/models/wards:predict", ("", case[1], 404))
            assert "did you mean 'words'?" in told["error"]
            case = ("", json.dumps({"instances": [row(hour=1.5)]}).encode(), 422)
            told = await refused(served.client, "/invocations", case)
            assert told == {
                "error_code": "INVALID_PARAMETER_VALUE",
                "message": "rows[0].hour: expected integer, got number",
            }

    run(scenario)


def test_envelopes_of_what_has_no_handler(every: tuple[Cache, str]) -> None:
    """Keys, unknown routes and methods, media types, and a model that fails: each in the dialect's form."""
    cache, key = every

    async def scenario() -> None:
        async with serving(cache, key, default_model="words") as served:
            request = served.client.request
            for method, path, status, headers in (
                ("POST", "/v2/models/words/infer", 401, {"x-api-key": "no"}),
                ("POST", "/v1/models/words:predict", 401, {"x-api-key": "no"}),
                ("GET", "/v2/nothing", 404, {}),
                ("GET", "/v1/models/words:predict", 405, {}),
                ("PUT", "/v2/models/words/infer", 405, {}),
                ("POST", "/v2/models/words/infer", 415, {"content-type": "text/plain"}),
                ("POST", "/v2/models/words/infer", 415, {"content-encoding": "gzip"}),
                ("POST", "/v2/repository/models/words/load", 403, {}),
            ):
                reply = await request(method, path, headers=headers, content=b"{}")
                assert reply.status_code == status, (method, path)
                assert isinstance(reply.json()["error"], str)
            for status, headers in ((401, {"x-api-key": "no"}), (415, {"content-type": "text/plain"})):
                reply = await request("POST", "/invocations", headers=headers, content=b"{}")
                assert reply.status_code == status
                assert set(reply.json()) == {"error_code", "message"}

    run(scenario)


def test_an_answer_that_is_no_number_is_an_error_in_each_dialect(cache: Cache, toy_bundle: Path) -> None:
    """500, never invalid JSON."""
    cache.add(1, pole_bundle(toy_bundle, cache.folder.parent / "pole"))
    key = cache.key(SCOPES)
    cache.deploy(1)
    pole = {"temp": 1.5, "hour": 13, "late": True, "carrier": "AA"}
    types = {"temp": "FP32", "hour": "INT64", "late": "BOOL", "carrier": "BYTES"}
    tensors = [{"name": n, "datatype": types[n], "shape": [1], "data": [v]} for n, v in pole.items()]

    async def scenario() -> None:
        async with serving(cache, key) as served:
            for path, body in (
                ("/v2/models/toy/infer", {"inputs": tensors}),
                ("/v1/models/toy:predict", {"instances": [pole]}),
                ("/invocations", {"instances": [pole]}),
            ):
                told = await refused(served.client, path, ("pole", json.dumps(body).encode(), 500))
                assert "not a finite number" in str(told)

    run(scenario)


def test_requests_are_counted_by_dialect(every: tuple[Cache, str]) -> None:
    """Good ones with their version and arm, refused ones with their status; unknown models make no series."""
    cache, key = every

    async def scenario() -> None:
        async with serving(cache, key, default_model="words") as served:
            client = served.client
            for path, body in (
                ("/v2/models/words/infer", infer()),
                ("/v1/models/words:predict", json.dumps({"instances": ROWS}).encode()),
                ("/invocations", json.dumps({"instances": ROWS}).encode()),
            ):
                for content in (body, body, b"{"):
                    await client.post(path, content=content, headers={"content-type": JSON})
            await client.get("/v2/models/words")
            await client.get("/v2/models/nope")
            samples = await metrics(served)
            counted = {key: n for (name, key), n in samples.items() if name == "perene_requests_total"}
            assert counted == {
                **{("words", "1", "champion", protocol, "200"): 2.0 for protocol in ("oip", "kserve", "mlflow")},
                **{("words", "", "", protocol, "400"): 1.0 for protocol in ("oip", "kserve")},
                ("", "", "", "mlflow", "400"): 1.0,
                ("words", "", "", "oip", "200"): 1.0,
                ("", "", "", "oip", "404"): 1.0,
            }
            assert samples["perene_rows_total", ("words",)] == 12

    run(scenario)
