"""Every peer, started as its own tutorial does; each folder beside this file has its code and its pins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.peers.target import MODEL, Target, listed, named, predictions
from bench.serving.subject import FOLDER, ROOT, STRINGS, Row

HERE = Path("bench/peers")
MLFLOW_MODEL = FOLDER / "mlflow_model"
_GRAPH = {"BENCH_MODEL": str(MODEL.absolute())}


def venv(name: str) -> Path:
    """The virtual environment that `bench/peers/setup` makes."""
    return ROOT / "venvs" / name


def peers() -> list[Target]:
    """All of them."""
    return [_fastapi(), _kserve(), _mlserver(), _litserve(), _bentoml(), _ray(), _mlflow()]


def _python(name: str) -> Path:
    return venv(name) / "bin" / "python"


def _fastapi() -> Target:
    name = "fastapi_onnx"
    return Target(
        name,
        "FastAPI + ONNX Runtime",
        "/predict",
        _python(name),
        ("fastapi", "pydantic", "uvicorn", "onnxruntime"),
        lambda port: [
            *(str(_python(name)), "-m", "uvicorn", "--app-dir", str(HERE / name), "serve:app"),
            *("--port", str(port), "--no-access-log"),
        ],
        named,
        predictions,
        lambda port: _GRAPH,
    )


def _kserve() -> Target:
    name = "kserve_onnx"
    return Target(
        name,
        "KServe SDK + ONNX Runtime",
        "/v1/models/bench:predict",
        _python(name),
        ("kserve", "onnxruntime"),
        lambda port: [
            *(str(_python(name)), str(HERE / name / "serve.py"), "--http_port", str(port)),
            *("--enable_grpc", "false", "--enable_latency_logging", "false"),
        ],
        lambda rows: {"instances": listed(rows)["rows"]},
        predictions,
        lambda port: _GRAPH,
    )


def _mlserver() -> Target:
    name = "mlserver_onnx"
    return Target(
        name,
        "MLServer + ONNX Runtime",
        "/v2/models/bench/infer",
        _python(name),
        ("mlserver", "onnxruntime"),
        lambda port: [str(venv(name) / "bin" / "mlserver"), "start", str(HERE / name)],
        _tensors,
        lambda answer: [float(value) for value in answer["outputs"][0]["data"]],
        lambda port: {
            **_GRAPH,
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": str(port),
            "MLSERVER_GRPC_PORT": str(port + 1),
            "MLSERVER_METRICS_PORT": str(port + 2),
        },
    )


def _litserve() -> Target:
    name = "litserve_onnx"
    return Target(
        name,
        "LitServe + ONNX Runtime",
        "/predict",
        _python(name),
        ("litserve", "onnxruntime"),
        lambda port: [str(_python(name)), str(HERE / name / "serve.py"), str(port)],
        listed,
        predictions,
        lambda port: _GRAPH,
    )


def _bentoml() -> Target:
    name = "bentoml_onnx"
    return Target(
        name,
        "BentoML + ONNX Runtime",
        "/predict",
        _python(name),
        ("bentoml", "onnxruntime"),
        lambda port: [
            *(str(venv(name) / "bin" / "bentoml"), "serve", "serve:Scorer", "--working-dir", str(HERE / name)),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        listed,
        lambda answer: [float(value) for value in answer],
        lambda port: {**_GRAPH, "BENTOML_DO_NOT_TRACK": "True"},
    )


def _ray() -> Target:
    name = "ray_onnx"
    return Target(
        name,
        "Ray Serve + ONNX Runtime",
        "/",
        _python(name),
        ("ray", "onnxruntime"),
        lambda port: [str(_python(name)), str(HERE / name / "serve.py"), str(port)],
        listed,
        predictions,
        lambda port: {**_GRAPH, "RAY_USAGE_STATS_ENABLED": "0"},
    )


def _mlflow() -> Target:
    name = "mlflow_serve"
    save = str(HERE / name / "save.py")
    # it finds uvicorn on PATH
    path = f"{(venv(name) / 'bin').absolute()}:/usr/local/bin:/usr/bin:/bin"
    return Target(
        name,
        "mlflow models serve",
        "/invocations",
        _python(name),
        ("mlflow", "scikit-learn", "pandas"),
        lambda port: [
            *(str(venv(name) / "bin" / "mlflow"), "models", "serve", "-m", str(MLFLOW_MODEL)),
            *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)),
        ],
        lambda rows: {"dataframe_split": {"columns": list(rows[0]), "data": listed(rows)["rows"]}},
        predictions,
        lambda port: {"PATH": path},
        prepare=(
            *(str(_python(name)), save, str(FOLDER / "pipeline.joblib")),
            *(str(FOLDER / "rows.json"), str(MLFLOW_MODEL)),
        ),
    )


def _tensors(rows: Sequence[Row]) -> dict[str, Any]:
    strings = [value for row in rows for name, value in row.items() if name in STRINGS]
    numbers = [value for row in rows for name, value in row.items() if name not in STRINGS]
    shape = [len(rows), len(rows[0]) - len(STRINGS)]
    return {
        "inputs": [
            {"name": "numbers", "shape": shape, "datatype": "FP32", "data": numbers},
            {"name": "strings", "shape": [len(rows) * len(STRINGS), 1], "datatype": "BYTES", "data": strings},
        ]
    }
