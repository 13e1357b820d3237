"""P5, second half: 10,000 rows as binary tensors of the Open Inference Protocol, beside bare `session.run`.

`python -m bench.serving.bulk` writes bench/results/bulk.json; the two tensors are named as in the graph.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from statistics import median
from typing import Any

import numpy as np

from bench.peers.target import Target
from bench.serving.ask import first_answer, running
from bench.serving.machine import facts, save
from bench.serving.ours import PYTHON, perene
from bench.serving.process import SERVER_CORE, be_the_load
from bench.serving.subject import FOLDER, ROOT, STRINGS, Subject, prepare

ROWS = 10_000
TIMES = 20


def body(strings: list[list[str]], numbers: np.ndarray[Any, Any]) -> tuple[bytes, int]:
    """The request and the length of its JSON head."""
    texts = b"".join(len(data := text.encode()).to_bytes(4, "little") + data for row in strings for text in row)
    parts = [numbers.astype("<f4").tobytes(), texts]
    shapes = [list(numbers.shape), [len(strings), len(STRINGS)]]
    head = {
        "inputs": [
            {"name": name, "shape": shape, "datatype": kind, "parameters": {"binary_data_size": len(part)}}
            for name, shape, kind, part in zip(("numbers", "strings"), shapes, ("FP32", "BYTES"), parts, strict=True)
        ],
        "parameters": {"binary_data_output": True},
    }
    encoded = json.dumps(head).encode()
    return b"".join((encoded, *parts)), len(encoded)


def ask(target: Target, port: int, subject: Subject, data: bytes, head: int) -> tuple[float, np.ndarray[Any, Any]]:
    """Seconds of one request, and its answers."""
    headers = {
        **target.headers,
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(head),
    }
    url = f"http://127.0.0.1:{port}/v2/models/{subject.name}/infer"
    began = time.perf_counter()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method="POST"), timeout=60) as answer:
        given = answer.read()
        split = int(answer.headers["Inference-Header-Content-Length"])
    took = time.perf_counter() - began
    kind = json.loads(given[:split])["outputs"][0]["datatype"]
    return took, np.frombuffer(given[split:], {"FP32": "<f4", "FP64": "<f8"}[kind])


def run() -> dict[str, Any]:
    """The request beside the engine alone."""
    subject = prepare()
    rows = [subject.rows[number % len(subject.rows)] for number in range(ROWS)]
    strings = [[str(row[name]) for name in STRINGS] for row in rows]
    numbers = np.array([[row[name] for name in subject.numbers] for row in rows], dtype=np.float32)
    wanted = np.array([subject.answers[number % len(subject.rows)] for number in range(ROWS)])
    data, head = body(strings, numbers)
    target = perene(subject)
    with running(target) as (server, port):
        first_answer(target, server, port, target.bodies(subject, 1)[0])
        try:
            answers = [ask(target, port, subject, data, head) for _ in range(TIMES)]
        except urllib.error.HTTPError as error:
            return {"summary": f"not measured: the binary route answers {error.code}"}
    if not np.allclose(answers[0][1], wanted, rtol=1e-5):
        return {"summary": "wrong: the answers differ from the pipeline's"}
    file = ROOT / "bulk.npz"
    np.savez(file, numbers=numbers, strings=np.array(strings, dtype=object))
    command = ["taskset", "-c", SERVER_CORE, str(PYTHON), "-m", "bench.peers.limits.session_run"]
    done = subprocess.run(
        [*command, str(FOLDER / "model.onnx"), str(file), "all"], capture_output=True, text=True, check=True
    )
    bare = json.loads(done.stdout)["all"]
    took = median(seconds for seconds, _ in answers)
    summary = f"{ROWS:,} rows in {took * 1e3:,.1f} ms, bare session.run {bare * 1e3:,.1f} ms"
    return {"request_s": took, "session_run_s": bare, "to_bare": took / bare, "summary": summary}


def main() -> None:
    """Run it and keep the figures."""
    prepare()
    be_the_load()
    found = {"command": "python -m bench.serving.bulk", "machine": facts(), **run()}
    print(found["summary"])
    print(save("bulk", found))


if __name__ == "__main__":
    main()
