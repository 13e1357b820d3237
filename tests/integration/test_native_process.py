"""The process of a native model: what it cannot do to us, and what happens when it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from registry.isolation import cut_network
from registry.native.process import NativeDied, NativeFailed, NativeProcess
from tests.integration.native_models import (
    CONTRACT,
    CRASH,
    FILL,
    HANG,
    RAISE,
    TALK,
    WIDE,
    Moody,
    Spy,
    asked,
    pickled,
)


def process(model: Any, *, seconds: float = 60.0) -> NativeProcess:
    return NativeProcess(CONTRACT, "model.joblib", pickled(model), allow_pickle=True, seconds=seconds, memory_mb=1024)


@pytest.fixture(scope="module")
def moody() -> Iterator[NativeProcess]:
    with process(Moody()) as made:
        yield made


def test_killed_it_is_started_again(moody: NativeProcess) -> None:
    """The call that notices fails with how it ended; the next one is answered."""
    moody.run(asked(7.0))
    first = moody.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    with pytest.raises(NativeDied, match="SIGKILL"):
        moody.run(asked(7.0))
    assert moody.run(asked(7.0))["prediction"].tolist() == [[14.0]]
    assert moody.pid not in (None, first)


def test_a_crash_says_how(moody: NativeProcess) -> None:
    with pytest.raises(NativeDied, match="SIGSEGV"):
        moody.run(asked(CRASH))
    assert moody.run(asked(7.0, 8.0))["prediction"].ravel().tolist() == [14.0, 16.0]


def test_an_exception_names_its_kind_and_no_value(moody: NativeProcess) -> None:
    """A library's message may hold a value of the rows."""
    pid = moody.pid
    with pytest.raises(NativeFailed, match="ValueError") as raised:
        moody.run(asked(RAISE))
    assert "secret" not in str(raised.value)
    moody.run(asked(7.0))
    assert pid is None or moody.pid == pid


def test_memory_is_limited(moody: NativeProcess) -> None:
    """64 GiB are refused in the child, which lives on."""
    with pytest.raises(NativeFailed, match="MemoryError"):
        moody.run(asked(FILL))


def test_another_shape_than_the_contract_says_is_refused(moody: NativeProcess) -> None:
    with pytest.raises(NativeFailed, match="another shape"):
        moody.run(asked(WIDE))


def test_what_it_prints_is_no_answer(moody: NativeProcess) -> None:
    """Standard output is not the protocol's."""
    assert moody.run(asked(TALK))["prediction"].tolist() == [[2 * TALK]]


def test_a_hang_is_stopped_and_the_next_call_answered() -> None:
    with process(Moody(), seconds=2.0) as made:
        first = made.pid
        with pytest.raises(NativeFailed, match="did not answer within 2 s"):
            made.run(asked(HANG))
        assert first is not None
        assert not psutil.pid_exists(first)
        made._seconds = 60.0  # what answers gets the time of a busy machine
        assert made.run(asked(7.0))["prediction"].tolist() == [[14.0]]


def test_one_that_always_fails_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second start in a row waits, then longer: requests do not pay for it."""
    # the process's own clock stands still, so that however long its ends take no waiting time is over before we look
    now = time.monotonic()
    monkeypatch.setattr("registry.native.process.time", SimpleNamespace(monotonic=lambda: now))
    with process(Moody()) as made:
        for _ in range(5):
            with pytest.raises(NativeFailed):
                made.run(asked(CRASH))
        with pytest.raises(NativeFailed, match="again and again"):
            made.run(asked(7.0))
        now += 15.0  # the longest that it is left alone
        assert made.run(asked(7.0))["prediction"].tolist() == [[14.0]]


def test_threads_share_it() -> None:
    """One call at a time; each gets its own answer."""
    wrong: list[float] = []
    with process(Moody()) as made:

        def work(n: int) -> None:
            for k in range(20):
                x = 100.0 * n + k + 10
                if made.run(asked(x, x + 0.5))["prediction"].ravel().tolist() != [2 * x, 2 * x + 1]:
                    wrong.append(x)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert wrong == []


def test_it_reaches_no_port_no_file_and_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A listener of this machine hears nothing; nothing is written; the environment is not ours."""
    monkeypatch.setenv("SECRET", "hunter2")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with process(Spy(listener.getsockname()[1], str(tmp_path / "canary"))) as made:
            assert made.run(asked(7.0))["prediction"].tolist() == [[0.0]]
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process give up the network")
def test_sockets_are_refused_where_no_namespace_is_to_be_had() -> None:
    """The system call itself is refused, also to what the process starts."""
    code = """if True:
        import ctypes, socket, subprocess, sys
        from registry.isolation import _refuse_sockets
        assert _refuse_sockets(ctypes.CDLL(None, use_errno=True))
        socket.socketpair()
        refused = []
        for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            try: socket.socket(family)
            except PermissionError: refused.append(family)
        assert len(refused) == 3
        child = "import socket; socket.socket()"
        assert subprocess.run([sys.executable, "-c", child], stderr=subprocess.DEVNULL).returncode == 1
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_cutting_the_network_says_whether_it_did() -> None:
    code = "from registry.isolation import cut_network; print(cut_network())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sys.platform == "linux")
    assert callable(cut_network)


def test_it_ends_with_its_parent() -> None:
    """A parent that is killed leaves none behind."""
    code = """if True:
        import sys, time
        from registry.native.process import NativeProcess
        from tests.integration.native_models import CONTRACT, Moody, pickled
        made = NativeProcess(CONTRACT, "model.joblib", pickled(Moody()), allow_pickle=True)
        made.start()
        print(made.pid, flush=True)
        time.sleep(3600)
    """
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs([child], timeout=60)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


def test_closed_it_is_gone_and_stays_so(moody: NativeProcess) -> None:
    """The last test of this process."""
    moody.run(asked(7.0))
    pid = moody.pid
    moody.close()
    assert pid is not None
    assert not psutil.pid_exists(pid)
    with pytest.raises(NativeFailed, match="unloaded"):
        moody.run(asked(7.0))
    assert np.isfinite(pid)
