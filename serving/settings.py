"""Settings of one serve process."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LimitSettings(BaseModel):
    """The `[serving.limits]` table: what every key may ask for that has no limits of its own; nothing is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_second: float | None = Field(None, gt=0, description="requests of one key, on average over a second")
    rows_per_second: float | None = Field(None, gt=0, description="rows of one key, on average over a second")
    concurrent: int | None = Field(None, ge=1, description="requests of one key being answered at once")
    rows_per_day: int | None = Field(None, ge=1, description="rows of one key in a day of UTC")
    redis: str = Field("", description="URL of a Redis that several machines count in; empty: this machine counts")


class QueueSettings(BaseModel):
    """The `[serving.queue]` table: how long a request may wait for the engine, and what goes together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = Field(0.1, gt=0, description="what would wait longer is refused at once with 503")
    max_requests: int = Field(1_024, ge=1, description="requests of one model that may wait at once")
    max_batch_rows: int = Field(256, ge=1, description="rows of several requests that one run of the engine takes")


class GpuSettings(BaseModel):
    """The `[serving.gpu]` table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_bytes: int | None = Field(None, ge=1 << 20, description="most memory ONNX Runtime may take on the GPU")
    tensorrt: bool = Field(default=False, description="try TensorRT before CUDA, where it is installed")
    buckets: tuple[int, ...] = Field(
        (1, 8, 64, 256), description="rows that batches on the GPU are filled up to, so that shapes repeat"
    )


class WebSettings(BaseModel):
    """The `[serving.web]` table: who may call by which name, and from which pages."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allowed_hosts: tuple[str, ...] = Field((), description="names that a Host header may give; needed beyond loopback")
    allowed_origins: tuple[str, ...] = Field((), description="origins whose pages may call (CORS); none by default")


class JobSettings(BaseModel):
    """The `[serving.jobs]` table: files answered over HTTP, and predictions answered later."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_upload_bytes: int = Field(1 << 30, ge=1024, description="bytes of one file that is sent to be answered")
    max_jobs: int = Field(1_000, ge=1, description="jobs that have not ended")
    max_jobs_per_key: int = Field(100, ge=1, description="those of one key")
    max_bytes: int = Field(10 << 30, ge=1 << 20, description="bytes of files and answers that are kept")
    keep_seconds: float = Field(7 * 86_400.0, gt=0, description="time for which a job that ended can be asked about")
    attempts: int = Field(5, ge=1, description="times a job is tried before it goes to the dead letters")
    memory_mb: int = Field(
        2_048, ge=256, le=1 << 24, description="memory that the process that answers a file may take"
    )
    parallel: int = Field(4, ge=1, le=64, description="waiting predictions that a serve process answers at once")
    folder: str = Field("", description="folder whose files jobs may name, and where they write; empty: none")
    webhook_secret: str = Field("", repr=False, description="signs what callbacks are sent; empty: no callbacks")
    webhook_hosts: tuple[str, ...] = Field(
        (), description="hosts that callbacks may reach at private addresses, and over plain HTTP"
    )
    webhook_attempts: int = Field(8, ge=1, description="times a callback is tried before it goes to the dead letters")


class HookSettings(BaseModel):
    """The `[serving.hooks]` table: what other programs tell this server, and what the worker asks of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    secret: str = Field(
        "", repr=False, description="signs calls of `/hooks/…`, and hand-overs to external engines; empty: keys alone"
    )


class ExplainSettings(BaseModel):
    """The `[serving.explain]` table: which columns moved a prediction, worked out by a child that ends when idle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_rows: int = Field(100, ge=1, le=10_000, description="rows or predictions that one request may have explained")
    seconds: float = Field(
        10.0, gt=0, le=86_400, description="time for a request, with waiting; longer is refused with 503"
    )
    memory_mb: int = Field(2_048, ge=512, le=1 << 24, description="memory that the process that explains may take")
    idle_seconds: float = Field(60.0, gt=0, description="time after which that process ends when nobody asks")
    kept: int = Field(1_000, ge=0, description="explanations of recorded predictions that are kept for ten minutes")


class ServingSettings(BaseModel):
    """The `[serving]` table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65_535)
    grpc_port: int | None = Field(
        None, ge=1, le=65_535, description="the Open Inference Protocol over gRPC, on the same address; off without one"
    )
    auth: bool = Field(default=True, description="ask for API keys; only loopback may go without")
    default_model: str | None = Field(None, description="answers bare /predict when several models are deployed")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    allow_pickle: bool = Field(
        default=False, description="run native models kept as pickles, which can do what this server's user can"
    )
    native_seconds: float = Field(10.0, gt=0, le=86_400, description="time a native model has for one request")
    workers: int = Field(1, ge=1, le=64, description="processes that answer on the port, each with a spool of its own")
    threads: int = Field(
        1, ge=1, le=256, description="threads of one run of the engine, within the CPU quota; small models want one"
    )
    max_models: int | None = Field(
        None, ge=1, description="models in memory at once; the one not asked for longest is loaded again when asked for"
    )
    decoding: Literal["strict", "coerce"] = Field(
        "strict", description="`coerce` takes values that widen safely to their column's type, and counts them"
    )
    cache_rows: int = Field(0, ge=0, description="answers of single rows kept for each version; 0 keeps none")
    request_log: bool = Field(default=True, description="write a line of JSON for each request")
    tracing: bool = Field(
        default=False, description="send OpenTelemetry spans to where OTEL_EXPORTER_OTLP_ENDPOINT says"
    )
    limits: LimitSettings = Field(LimitSettings(), description="the table `[serving.limits]`")
    queue: QueueSettings = Field(QueueSettings(), description="the table `[serving.queue]`")
    gpu: GpuSettings = Field(GpuSettings(), description="the table `[serving.gpu]`")
    web: WebSettings = Field(WebSettings(), description="the table `[serving.web]`")
    jobs: JobSettings = Field(JobSettings(), description="the table `[serving.jobs]`")
    hooks: HookSettings = Field(HookSettings(), description="the table `[serving.hooks]`")
    explain: ExplainSettings = Field(ExplainSettings(), description="the table `[serving.explain]`")
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024)
    max_rows: int = Field(10_000, ge=1, description="rows in one request")
    poll_seconds: float = Field(0.1, gt=0, description="how often the hand-over from the puller is looked at")
    seal_rows: int = Field(5_000, ge=1, description="events in the spool that are shipped at once")
    seal_seconds: float = Field(2.0, gt=0, description="or the age, in seconds, of the oldest")
    spool_max_bytes: int = Field(1 << 30, ge=1 << 20)
    strict: bool = Field(
        default=False, description="answer only when the event is synced to disk: no answer without its event"
    )
    subject_key: Path | None = Field(
        None, description="file with the secret of pseudonyms, for homes that share a lake; none: the home's own"
    )
