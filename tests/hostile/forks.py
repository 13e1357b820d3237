"""A server that judges bundles in forks of itself: the sandbox's own checks and limits without its imports each time.

`python -m tests.hostile.forks` reads one JSON request a line and answers one line:
`{"how": "sound" | "refused" | "crashed" | "late", "reason": …, "seconds": …}`.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from registry.errors import BundleCorrupt, PereneError

if TYPE_CHECKING:
    from registry.bundle import Bundle
    from registry.parity import Run

ROOT = Path(__file__).parents[2]
MEMORY_MB = 2_048
Task = Literal["judge", "bypass", "probe"]
"""All checks; only the run of the golden rows, as if nothing were checked before; rows that nobody promised."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a fork ended, why, and how long it took."""

    how: str
    reason: str
    seconds: float


class Forks:
    """The server, seen from a test. One request at a time."""

    def __enter__(self) -> Forks:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.forks"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def ask(self, task: Task, folder: Path, *, seconds: float = 4.0) -> Outcome:
        """What becomes of the bundle in `folder`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([task, str(folder), seconds]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the server of forks died"
        return Outcome(**json.loads(line))


def _serve() -> None:
    from registry.isolation import cut_network
    from registry.landlock import give_up

    out = os.dup(1)
    os.dup2(2, 1)
    cut_network()
    give_up(programs=True, others=True)
    for name in ("onnxruntime", "pyarrow.parquet", "registry.golden", "registry.graphs.check", "registry.sandbox"):
        importlib.import_module(name)
    for line in sys.stdin:
        task, folder, seconds = json.loads(line)
        os.write(out, json.dumps(_fork(task, Path(folder), seconds)).encode() + b"\n")


def _fork(task: Task, folder: Path, seconds: float) -> dict[str, Any]:
    began = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _work(task, folder, seconds, writing)
    os.close(writing)
    said = b""
    while select.select([reading], [], [], max(0.0, began + seconds + 0.5 - time.monotonic()))[0]:
        part = os.read(reading, 4096)
        if not part:
            break
        said += part
    os.close(reading)
    if time.monotonic() >= began + seconds + 0.5:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    took = time.monotonic() - began
    if said:
        how, _, reason = said.decode().partition(":")
        return {"how": how, "reason": reason, "seconds": took}
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number in (signal.SIGKILL, signal.SIGXCPU, signal.SIGALRM):
        return {"how": "late", "reason": "", "seconds": took}
    return {"how": "crashed", "reason": str(number), "seconds": took}


def _work(task: Task, folder: Path, seconds: float, pipe: int) -> None:
    from registry.isolation import limit_run
    from registry.sandbox import judge

    try:
        limit_run(seconds=seconds, memory_mb=MEMORY_MB)
        if task == "judge":
            judge(folder)
        else:
            _run(folder, promised=task == "bypass")
        said = "sound:"
    except PereneError as error:
        said = f"refused:{error.message[:400]}"
    # as the sandbox says it
    except Exception as error:
        said = f"refused:it cannot be checked ({type(error).__name__})"
    os.write(pipe, said.encode())
    os._exit(0)


def _run(folder: Path, *, promised: bool) -> None:
    """The golden rows, or rows of extremes in several batches, straight through ONNX Runtime."""
    import numpy as np

    from registry.bundle import read_bundle
    from registry.golden import check_golden
    from registry.parity import onnx_runner

    bundle = read_bundle(folder)
    if promised:
        check_golden(bundle)
        return
    run = onnx_runner(bundle.model_bytes())
    _compare(bundle, run)
    extremes = np.array([0.0, -0.0, np.nan, 1e-45, -1e30, 3.4e38, 1.0, -7.5, 2**24], dtype=bundle.contract.precision)
    words = np.array(["", "red", "a" * 1_000, "ä€😀", "\t\n", "1e9"], dtype=object)
    generator = np.random.default_rng(1)
    for count in (1, 7, 300):
        tensors: dict[str, Any] = {}
        if bundle.contract.numbers:
            tensors["numbers"] = generator.choice(extremes, (count, len(bundle.contract.numbers)))
        if bundle.contract.strings:
            tensors["strings"] = generator.choice(words, (count, len(bundle.contract.strings)))
        run(tensors)


def _compare(bundle: Bundle, run: Run) -> None:
    """Answers the golden rows as the original beside the bundle does, whatever the golden rows say."""
    import numpy as np

    from registry.golden import read_golden
    from registry.parity import answers, onnx_runner
    from registry.tensors import pack_frame

    original = bundle.path.parent / "original.onnx"
    if original.is_file():
        tensors = pack_frame(bundle.contract, read_golden(bundle.path / "golden.parquet", bundle.contract))
        both = [answers(bundle.contract, r(tensors)) for r in (run, onnx_runner(original.read_bytes()))]
        same = np.allclose(both[0].values, both[1].values, rtol=1e-3, atol=1e-3)
        labels = [[] if one.labels is None else one.labels.tolist() for one in both]
        if not same or labels[0] != labels[1]:
            raise BundleCorrupt("otherwise")


if __name__ == "__main__":
    _serve()
