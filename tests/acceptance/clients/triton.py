"""NVIDIA's client against a server: `triton.py HTTP_PORT GRPC_PORT KEY`, rows as JSON on stdin, findings on stdout.

Runs in an environment of its own, made by `scripts/clients`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

KINDS = {"temp": np.float64, "hour": np.int64, "late": np.bool_, "carrier": np.object_, "gate": np.object_}


def arrays(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A column for each name; null is NaN, or the empty text."""
    made: dict[str, Any] = {}
    for name in rows[0]:
        null: Any = "" if KINDS[name] is np.object_ else np.nan
        made[name] = np.array([null if row[name] is None else row[name] for row in rows], dtype=KINDS[name])
    return made


def inputs(library: Any, columns: dict[str, Any], **options: Any) -> list[Any]:
    """Tensors of the library's own class."""
    made = []
    for name, values in columns.items():
        tensor = library.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
        tensor.set_data_from_numpy(values, **options)
        made.append(tensor)
    return made


def plain(values: Any) -> Any:
    """Lists of Python values; texts come as bytes from some ways and as text from others."""
    return [v.decode() if isinstance(v, bytes) else v for v in values.tolist()]


def refused(call: Any) -> list[str]:
    """Status and text of a refusal."""
    try:
        call()
    except InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    return ["it was not refused"]


def over_http(url: str, headers: dict[str, str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Each way in which the client can send and receive.

    The client writes the length of a body into the headers that it is given, so each call has its own.
    """
    library, found = tritonclient.http, dict[str, Any]()
    client = library.InferenceServerClient(url)
    found["live"] = client.is_server_live(headers=headers) and client.is_server_ready(headers=headers)
    found["ready"] = client.is_model_ready("words", headers=headers)
    found["server"] = client.get_server_metadata(headers=headers)["name"]
    found["metadata"] = client.get_model_metadata("words", "1", headers=headers)
    found["index"] = client.get_model_repository_index(headers=headers)
    columns = arrays(rows)
    for sent in (True, False):
        for received in (True, False):
            outputs = [library.InferRequestedOutput(name, binary_data=received) for name in ("label", "probabilities")]
            result = client.infer(
                "words",
                inputs(library, columns, binary_data=sent),
                outputs=outputs,
                headers=dict(headers),
                request_id="7",
            )
            found[f"label {sent} {received}"] = plain(result.as_numpy("label"))
            found[f"probabilities {sent} {received}"] = result.as_numpy("probabilities").tolist()
    result = client.infer("words", inputs(library, columns, binary_data=True), headers=dict(headers))
    found["label without outputs"] = plain(result.as_numpy("label"))
    found["id"] = result.get_response()["parameters"]["prediction_ids"].count(",")
    tall = {name: values.reshape(-1, 1) for name, values in columns.items()}
    result = client.infer("words", inputs(library, tall, binary_data=True), headers=dict(headers))
    found["label of [N, 1]"] = plain(result.as_numpy("label"))
    numbers = np.column_stack([columns["temp"], columns["hour"], columns["late"]]).astype(np.float32)
    texts = np.column_stack([columns["carrier"], columns["gate"]])
    result = client.infer("words", inputs(library, {"numbers": numbers, "strings": texts}), headers=dict(headers))
    found["label of matrices"] = plain(result.as_numpy("label"))
    wrong = {("hoor" if name == "hour" else name): values for name, values in columns.items()}
    found["wrong column"] = refused(lambda: client.infer("words", inputs(library, wrong), headers=dict(headers)))
    found["no model"] = refused(lambda: client.get_model_metadata("wards", headers=headers))
    found["no key"] = refused(lambda: client.get_model_metadata("words"))
    found["load"] = refused(lambda: client.load_model("words", headers=headers))
    client.close()
    return found


def over_grpc(url: str, headers: dict[str, str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The same by its other transport."""
    library, found = tritonclient.grpc, dict[str, Any]()
    client = library.InferenceServerClient(url)
    found["live"] = client.is_server_live(headers=headers) and client.is_server_ready(headers=headers)
    found["ready"] = client.is_model_ready("words", headers=headers)
    found["server"] = client.get_server_metadata(headers=headers).name
    found["metadata"] = client.get_model_metadata("words", "1", headers=headers, as_json=True)
    found["index"] = client.get_model_repository_index(headers=headers, as_json=True)["models"]
    columns = arrays(rows)
    result = client.infer("words", inputs(library, columns), headers=headers, request_id="7")
    found["label"] = plain(result.as_numpy("label"))
    found["probabilities"] = result.as_numpy("probabilities").tolist()
    wrong = {("hoor" if name == "hour" else name): values for name, values in columns.items()}
    found["wrong column"] = refused(lambda: client.infer("words", inputs(library, wrong), headers=headers))
    found["no model"] = refused(lambda: client.get_model_metadata("wards", headers=headers))
    found["no key"] = refused(lambda: client.get_model_metadata("words"))
    found["load"] = refused(lambda: client.load_model("words", headers=headers))
    client.close()
    return found


def main() -> None:
    http, grpc, key = sys.argv[1:]
    rows, headers = json.load(sys.stdin), {"authorization": f"Bearer {key}"}
    found = {
        "http": over_http(f"127.0.0.1:{http}", headers, rows),
        "grpc": over_grpc(f"127.0.0.1:{grpc}", headers, rows),
    }
    print(json.dumps(found))


main()
