"""Parts of the soak: traffic of every kind for a while, and what processes hold meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import psutil

from tests.acceptance.test_serving_process import Server
from tests.integration.serving_toy import ROW, Cache

BAD = (
    ("/models/toy/predict", b"{"),
    ("/models/toy/predict", b'{"rows": []}'),
    ("/models/toy/predict", b'{"rows": [{"temp": "x"}]}'),
    ("/models/toy/predict", b'{"rows": [' + b"0," * 50_000 + b"0]}"),
    ("/models/nobody/predict", b'{"rows": [{}]}'),
    ("/models/toy/versions/9/predict", b'{"rows": [{}]}'),
    ("/models/toy/feedback", b'[{"prediction_id": "x", "label": 1}]'),
    ("/nowhere", b""),
)


@dataclass
class Traffic:
    """Clients of one server, each in a thread, until the end of the context; `swap` is called twice a second."""

    server: Server
    swap: Callable[[int], None]
    statuses: Counter[int] = field(default_factory=Counter)
    _known: deque[str] = field(default_factory=lambda: deque(maxlen=2_000))
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Traffic:
        work = [self._predict] * 3 + [self._tell, self._err, self._dawdle, self._swap]
        for number, target in enumerate(work):
            self._threads.append(threading.Thread(target=target, args=(random.Random(number),), daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _predict(self, dice: random.Random) -> None:
        with contextlib.closing(self.server.connect()) as connection:
            while not self._stop.wait(0.004):
                # drifts and comes back, so that the worker has something to find
                shift = 30.0 if int(time.monotonic() / 5) % 2 else 0.0
                row = {**ROW, "hour": dice.randrange(24), "temp": dice.gauss(10, 5) + shift}
                status, body = self.server.on(
                    connection, "POST", "/models/toy/predict", {"rows": [row] * dice.choice((1, 1, 5, 20))}
                )
                self.statuses[status] += 1
                self._known.extend(body.get("prediction_ids", ())[:1])

    def _tell(self, dice: random.Random) -> None:
        with contextlib.closing(self.server.connect()) as connection:
            while not self._stop.wait(0.02):
                ids = [dice.choice(self._known) for _ in range(5)] if self._known else []
                items = [{"prediction_id": i, "label": dice.random()} for i in ids]
                if items:
                    self.statuses[self.server.on(connection, "POST", "/models/toy/feedback", items)[0]] += 1

    def _err(self, dice: random.Random) -> None:
        while not self._stop.wait(0.01):
            path, body = dice.choice(BAD)
            key = dice.choice((self.server.key, "prn_0_nobody"))
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            connection = self.server.connect()
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("POST", path, body, headers)
                self.statuses[connection.getresponse().status] += 1

    def _dawdle(self, dice: random.Random) -> None:
        """Requests that are begun, and left."""
        head = b"POST /models/toy/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"
        while not self._stop.wait(0.05):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.server.port)) as one:
                one.sendall(head[: dice.randrange(len(head))])
                self._stop.wait(0.2)

    def _swap(self, _: random.Random) -> None:
        number = 0
        while not self._stop.wait(0.5):
            number += 1
            self.swap(number)


@dataclass(frozen=True)
class Growth:
    """What a process held on average, and how much more of it by the end of the measurement, by a line through all."""

    level: float
    grown: float


def measured(processes: Mapping[str, psutil.Process], seconds: float) -> dict[str, dict[str, Growth]]:
    """Memory of its own (bytes), descriptors and threads of each process, looked at four times a second."""
    taken: dict[tuple[str, str], list[float]] = {(n, w): [] for n in processes for w in ("rss", "fds", "threads")}
    times: list[float] = []
    ends = time.monotonic() + seconds
    while (now := time.monotonic()) < ends:
        times.append(now)
        for name, process in processes.items():
            with process.oneshot():
                taken[name, "rss"].append(_resident(process))
                taken[name, "threads"].append(process.num_threads())
            taken[name, "fds"].append(process.num_fds())
        time.sleep(0.25)
    found: dict[str, dict[str, Growth]] = {}
    for (name, what), values in taken.items():
        slope = float(np.polyfit(times, values, 1)[0])
        found.setdefault(name, {})[what] = Growth(float(np.mean(values)), slope * (times[-1] - times[0]))
    return found


def _resident(process: psutil.Process) -> int:
    """Memory of its own. Pages of files are the kernel's: the journal's are touched one by one, up to its 16 MiB."""
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


def leaks(processes: Mapping[str, psutil.Process], seconds: float) -> set[tuple[str, str]]:
    """What each of three measurements finds growing, by process and kind; fewer when nothing is left to suspect.

    By more than 5 %, of descriptors and threads, which come and go with connections, also by more than 4. What only
    warms up, or is laid out anew in a merge, has grown once; a leak goes on.
    """
    suspects = {(name, what) for name in processes for what in ("rss", "fds", "threads")}
    for _ in range(3):
        found = measured(processes, seconds)
        print(f"\n{shown(found)}")
        suspects &= {
            (name, what)
            for name, kinds in found.items()
            for what, growth in kinds.items()
            if growth.grown > max(0.05 * growth.level, 0 if what == "rss" else 4)
        }
        if not suspects:
            break
    return suspects


def swapping(cache: Cache) -> Callable[[int], None]:
    """Hands over the two versions in turn."""
    return lambda number: cache.deploy(1 + number % 2)


def shown(found: Mapping[str, Mapping[str, Growth]]) -> str:
    """A line a process."""
    return "\n".join(
        f"{name}: {kinds['rss'].level / 2**20:.0f} MiB {kinds['rss'].grown / 2**20:+.1f}, "
        f"{kinds['fds'].level:.0f} descriptors {kinds['fds'].grown:+.1f}, "
        f"{kinds['threads'].level:.0f} threads {kinds['threads'].grown:+.1f}"
        for name, kinds in found.items()
    )
