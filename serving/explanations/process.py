"""The child that explains, as one thread of the server uses it: started when asked, killed when it takes too long."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from registry.isolation import environment
from registry.native.protocol import Broken, receive, send
from serving.errors import Overloaded
from serving.explanations.messages import Ask, Told
from serving.settings import ServingSettings

START_S: Final = 60.0
"""The imports of a cold machine take long, and are not the question's fault."""
_ANSWER_BYTES: Final = 64 * 1024 * 1024


class ExplainProcess:
    """One child, for one thread that lives as long as we do: the kernel ends the child with the thread."""

    def __init__(self, home: Path, lake: Path | str, settings: ServingSettings) -> None:
        self._home = home
        self._lake = str(lake)
        explain = settings.explain
        self._seconds = explain.seconds
        self._given = {
            "memory_mb": explain.memory_mb,
            "allow_pickle": settings.allow_pickle,
            # a row that came as JSON is not longer as msgpack
            "most_bytes": 2 * settings.max_body_bytes,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._stopped = False
        self._ready = False
        self._begun = 0.0

    @property
    def pid(self) -> int | None:
        """Process id, while one runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def ask(self, ask: Ask) -> Told:
        """Have rows explained.

        Raises:
            Overloaded: it took too long or the child ended; the next question starts another.
        """
        if self._stopped:
            raise _failed("the server ends", "try again")
        if self._process is not None and self._process.poll() is not None:
            self.end()  # killed while nobody asked: that costs nobody an answer
        deadline = time.monotonic() + self._seconds
        try:
            link = self._link or self._start()
            if not self._ready and not self._came_up(link, deadline):
                raise _failed("the process that explains is being started", "try again after Retry-After")
            send(link, ask, deadline)
            return receive(link, Told, most=_ANSWER_BYTES, deadline=deadline)
        except TimeoutError:
            self.end()
            raise _failed("the explanation took too long", "ask about fewer rows at once") from None
        except (Broken, OSError):
            self.end()
            raise _failed("the process that explains ended", "try again") from None

    def _came_up(self, link: socket.socket, deadline: float) -> bool:
        """Wait until the child has said that it is there; false: it is still at its imports, and goes on with them."""
        try:
            receive(link, Told, most=_ANSWER_BYTES, deadline=min(deadline, self._begun + START_S))
        except TimeoutError:
            if time.monotonic() >= self._begun + START_S:
                raise
            return False
        self._ready = True
        return True

    def stop(self) -> None:
        """Kill the child, whatever it is doing, and start no other; of all methods this one is for other threads."""
        self._stopped = True
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def end(self) -> None:
        """End the child, if there is one; the next question starts another."""
        self._ready = False
        link, self._link = self._link, None
        process, self._process = self._process, None
        if link is not None:
            link.close()
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the process of a native model ends with it
            process.wait()

    def _start(self) -> socket.socket:
        self._begun = time.monotonic()
        ours, theirs = socket.socketpair()
        # what opens a store of objects are its credentials in the environment; a folder needs none
        secret = dict(os.environ) if "://" in self._lake else {}
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "serving.explanations.child", str(os.getpid()), str(theirs.fileno())),
                    *(str(self._home), self._lake, json.dumps(self._given)),
                ],
                stdin=subprocess.DEVNULL,
                # what libraries print may hold values of rows
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={**secret, **environment()},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._link = ours
        if self._stopped:  # while it was started
            self.stop()
        return ours


def _failed(message: str, hint: str) -> Overloaded:
    return Overloaded(message, where="explain", hint=hint)
