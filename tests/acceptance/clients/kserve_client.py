"""KServe's inference client against a server: `kserve_client.py HTTP_PORT GRPC_PORT KEY`, as `triton.py`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import httpx
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

TYPES = {"temp": "FP64", "hour": "INT64", "late": "BOOL", "carrier": "BYTES", "gate": "BYTES"}


def request(rows: list[dict[str, Any]]) -> InferRequest:
    """The client's own request of the second protocol."""
    tensors = []
    for name in rows[0]:
        values = [row[name] for row in rows]
        if TYPES[name] == "BYTES":
            values = [value or "" for value in values]
        tensors.append(InferInput(name=name, shape=[len(rows)], datatype=TYPES[name], data=values))
    return InferRequest(model_name="words", infer_inputs=tensors)


async def over_http(base: str, key: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Both protocols, by its REST client."""
    found: dict[str, Any] = {}
    headers = {"authorization": f"Bearer {key}"}
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        found["ready"] = await client.is_server_ready(base, headers=headers)
        found["live"] = await client.is_server_live(base, headers=headers)
        found["model"] = await client.is_model_ready(base, "words", headers=headers)
        answer = await client.infer(base, request(rows), model_name="words", headers=headers)
        found["v2"] = {output.name: output.data for output in answer.outputs}
        try:
            await client.infer(base, request([{"temp": 1.0}]), model_name="words", headers=headers)
        except httpx.HTTPStatusError as error:
            found["refused"] = str(error)
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        found["v1 model"] = await client.is_model_ready(base, "words", headers=headers)
        answer = await client.infer(base, {"instances": rows}, model_name="words", headers=headers)
        found["v1"] = answer["predictions"]
    return found


async def over_grpc(url: str, key: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The second protocol, by its gRPC client; null is NaN here, for its messages have no null."""
    headers = (("authorization", f"Bearer {key}"),)
    sent = [{**row, "temp": float("nan") if row["temp"] is None else row["temp"]} for row in rows]
    async with InferenceGRPCClient(url) as client:
        found: dict[str, Any] = {
            "ready": await client.is_server_ready(headers=headers),
            "live": await client.is_server_live(headers=headers),
            "model": await client.is_model_ready("words", headers=headers),
        }
        answer = await client.infer(request(sent), headers=headers)
        outputs = {output.name: output.as_numpy() for output in answer.outputs}
        label = [v.decode() if isinstance(v, bytes) else v for v in outputs["label"].tolist()]
        found["v2"] = {"label": label, "probabilities": outputs["probabilities"].reshape(-1).tolist()}
    return found


async def main() -> None:
    http, grpc, key = sys.argv[1:]
    rows = json.load(sys.stdin)
    found = {
        "http": await over_http(f"http://127.0.0.1:{http}", key, rows),
        "grpc": await over_grpc(f"127.0.0.1:{grpc}", key, rows),
    }
    print(json.dumps(found))


asyncio.run(main())
