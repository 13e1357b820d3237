"""A native model: the original estimator in a process of its own, asked over a socket.

This side needs only the standard library, numpy and msgspec: no estimator's code ever runs in it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from registry.contract import Contract, Output
from registry.errors import ConversionRefused, NotAllowed, PereneError
from registry.isolation import environment
from registry.native.protocol import MESSAGE_BYTES, Ask, Broken, Load, Reply, receive, send

Array = npt.NDArray[Any]
PICKLE: Final = "model.joblib"
LOAD_SECONDS: Final = 120.0
"""A cold machine takes long to import a library of estimators; that is not the model's fault."""
MAX_BACKOFF_S: Final = 15.0


class NativeFailed(PereneError):
    """A native model did not answer: it failed on the rows, took too long, or its process ended."""

    code = "native_failed"


class NativeDied(NativeFailed):
    """The process of a native model ended by itself; the next call starts another."""

    code = "native_died"


def dump(estimator: Any, *, allow_pickle: bool = False) -> tuple[str, bytes]:
    """Name and bytes of the file that a native process loads; see `registry.native.formats.dump`."""
    from registry.native.formats import dump as write

    return write(estimator, allow_pickle=allow_pickle)


def check_pickle(file: str, *, allow_pickle: bool) -> None:
    """Refuse a pickle where the operator did not allow them.

    Raises:
        NotAllowed: `file` is a pickle; loading one runs code that its author chose.
    """
    if file == PICKLE and not allow_pickle:
        raise NotAllowed(
            "the model is a pickle, and loading one runs code that its author chose",
            where=PICKLE,
            hint="allow_pickle = true (in perene.toml: serving.allow_pickle) if you trust whoever logged it",
        )


class NativeProcess:
    """One model in one process: one call at a time, killed when it takes too long, started anew at the next call.

    Usable as a context manager. Threads may share it. The process has limited memory, no network where the kernel
    lets us take it away, no environment of ours, and ends with us.
    """

    def __init__(
        self,
        contract: Contract,
        file: str,
        data: bytes,
        *,
        allow_pickle: bool = False,
        seconds: float = 60.0,
        memory_mb: int = 4096,
    ) -> None:
        check_pickle(file, allow_pickle=allow_pickle)
        self._contract = contract
        self._load = Load(contract.to_dict(), file, data, allow_pickle, memory_mb)
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._failures = 0
        self._not_before = 0.0
        self._closed = False
        self._starting = False

    def __enter__(self) -> NativeProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id, while one runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the process and load the model.

        Raises:
            ConversionRefused: it does not load.
        """
        with self._lock:
            if self._link is None:
                self._start()

    def run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Answer the rows of `tensors`, with the outputs that the contract names.

        Raises:
            NativeDied: the process ended; asking again starts another.
            NativeFailed: the model failed on these rows, took too long, answered what the contract does not allow,
                or fails so often that it is left alone for a while.
        """
        ask = _ask(tensors)
        while not self._lock.acquire(timeout=self._seconds):
            if not self._starting:
                raise NativeFailed(
                    f"the model is busy with other requests for more than {self._seconds:g} s", hint="try again later"
                )
        try:
            if self._link is None:
                self._restart()
            reply = self._exchange(self._link, ask, time.monotonic() + self._seconds)
        finally:
            self._lock.release()
        if reply.error:
            raise NativeFailed(f"the model failed on these rows: {_readable(reply.error)}", where="native")
        return _outputs(self._contract.output, ask.rows, reply)

    def close(self) -> None:
        """End the process; it is not started again."""
        self._closed = True
        self._kill()

    def _exchange(self, link: socket.socket | None, ask: Ask, deadline: float) -> Reply:
        if link is None:
            raise NativeFailed("the model was unloaded", hint="try again")
        try:
            send(link, ask, deadline)
            reply = receive(link, Reply, most=_largest(self._contract.output, ask.rows), deadline=deadline)
            _check(self._contract.output, ask.rows, reply)
        except TimeoutError:
            self._failed()
            raise NativeFailed(
                f"the model did not answer within {self._seconds:g} s and was stopped",
                where="native",
                hint="send fewer rows, or serve a lighter model",
            ) from None
        except ValueError as error:
            self._failed()
            raise NativeFailed(f"the model was stopped: {error}", where="native", hint="log it again") from error
        except (Broken, OSError) as error:
            how = self._failed()
            raise NativeDied(f"the process of the model ended ({how})", where="native", hint="try again") from error
        self._failures = 0
        return reply

    def _restart(self) -> None:
        if self._closed:
            raise NativeFailed("the model was unloaded", hint="try again")
        if time.monotonic() < self._not_before:
            raise NativeFailed("the model fails again and again; it is left alone for a while", hint="try again later")
        try:
            self._start()
        except ConversionRefused as error:
            raise NativeFailed(error.message, hint="try again later") from error

    def _start(self) -> None:
        # who waits for the lock meanwhile waits for a machine, not for the model
        self._starting = True
        try:
            self._open()
        finally:
            self._starting = False

    def _open(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "registry.native.worker", str(os.getpid()), str(theirs.fileno())]
            self._process = _starter().submit(_spawn, command, theirs.fileno()).result()
        self._link = ours
        deadline = time.monotonic() + LOAD_SECONDS
        try:
            send(ours, self._load, deadline)
            said = receive(ours, Reply, most=MESSAGE_BYTES, deadline=deadline).error
        except TimeoutError:
            self._failed()
            said = "it did not load in time"
        except (Broken, OSError):
            said = f"its process ended while it loaded ({self._failed()})"
        else:
            if said:
                self._failed()
        if said:
            raise ConversionRefused(
                f"the model does not load in a process of its own: {_readable(said)}",
                where=self._load.file,
                hint="log it again",
            )
        if self._closed:
            self._kill()

    def _failed(self) -> str:
        """Kill what is left, wait longer with each failure in a row before the next start; says how it ended."""
        self._failures += 1
        wait = 0.0 if self._failures == 1 else min(MAX_BACKOFF_S, 0.2 * 2.0 ** (self._failures - 2))
        self._not_before = time.monotonic() + wait
        return self._kill()

    def _kill(self) -> str:
        link, self._link = self._link, None
        process, self._process = self._process, None
        if link is not None:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)  # wakes a thread that still waits for an answer
            link.close()
        if process is None:
            return "it was stopped"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)  # one that ended by itself says how
        ended = process.returncode
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its session: whatever it started goes too
        process.wait()
        if ended is None:
            return "it was stopped"
        return signal.Signals(-ended).name if ended < 0 else f"exit code {ended}"


@cache
def _starter() -> ThreadPoolExecutor:
    """The thread that starts processes and lives as long as we do: the kernel ends them with the thread."""
    return ThreadPoolExecutor(1, "native-starter")


def _spawn(command: list[str], link: int) -> subprocess.Popen[bytes]:
    with contextlib.ExitStack() as opened:
        nothing = opened.enter_context(Path(os.devnull).open("rb"))
        try:
            nowhere: IO[bytes] | None = opened.enter_context(Path(os.devnull).open("wb"))
        except PermissionError:
            nowhere = None  # a process that may write nothing checks a bundle; its own output goes nowhere already
        return subprocess.Popen(
            command,
            stdin=nothing,
            # what libraries print may hold values of rows
            stdout=nowhere,
            stderr=nowhere,
            cwd="/",
            env=environment(),
            pass_fds=(link,),
            start_new_session=True,
        )


def _readable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:300])


def _ask(tensors: Mapping[str, Array]) -> Ask:
    numbers, strings = tensors.get("numbers"), tensors.get("strings")
    rows = len(numbers) if numbers is not None else len(strings) if strings is not None else 0
    packed = b"" if numbers is None else np.ascontiguousarray(numbers, np.float64).tobytes()
    return Ask(rows, packed, [] if strings is None else strings.tolist())


def _width(output: Output) -> int:
    """Numbers in one answer."""
    if output.kind == "regression":
        return len(output.targets) or 1
    return len(output.scores) or len(output.classes)


def _largest(output: Output, rows: int) -> int:
    return rows * 8 * (_width(output) + 1) + MESSAGE_BYTES


def _check(output: Output, rows: int, reply: Reply) -> None:
    """Refuse a reply that the contract does not allow, as a process would send that somebody took over."""
    if reply.error:
        return
    labels = np.frombuffer(reply.labels, np.int64)
    wanted = rows if output.kind == "classification" else 0
    if len(reply.values) != rows * 8 * _width(output) or len(labels) != wanted:
        raise ValueError("it answers in another shape than the contract says")
    if wanted and not ((labels >= 0) & (labels < len(output.classes))).all():
        raise ValueError("it answers a class that the contract does not have")


def _outputs(output: Output, rows: int, reply: Reply) -> dict[str, Array]:
    values = np.frombuffer(reply.values, np.float64).reshape(rows, _width(output))
    if output.kind == "regression":
        return {"prediction": values}
    positions = np.frombuffer(reply.labels, np.int64)
    classes = np.asarray(output.classes, dtype=object if isinstance(output.classes[0], str) else None)
    found = {"label": classes[positions]}
    if not output.scores:
        return {**found, "probabilities": values}
    return {**found, "probabilities": np.eye(len(output.classes))[positions], "scores": values}
