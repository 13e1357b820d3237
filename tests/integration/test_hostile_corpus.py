"""A bad artifact never gets through: 180 crafted ones and eleven that crash or hang the runtime (promise 7)."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import psutil
import pytest

from registry.bundle import seal
from registry.errors import BundleCorrupt
from registry.graphs.check import check_graph
from registry.sandbox import check_in_child
from tests.hostile import shared_models, sound
from tests.hostile.files import FILES, HostileFile, canary_of
from tests.hostile.forks import ROOT, Forks
from tests.hostile.graphs import GRAPHS, RUNS, HostileGraph, cubic

SOUND: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[int, ...], int]] = {
    "trees": (sound.trees, (), 0),
    "classes of trees": (sound.tree_classes, (0, 1, 2), 0),
    "trees of opset 5": (sound.forest, (), 0),
    "support vectors": (sound.svm, (0, 1), 0),
    "text": (sound.text, (), 1),
}


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as server:
        yield server


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound bundle of a classification."""
    folder = tmp_path_factory.mktemp("corpus") / "base"
    return sound.write_bundle(folder, sound.tree_classes(), sound.contract(classes=(0, 1, 2)))


def test_the_corpus_is_as_large_as_promised() -> None:
    """And no name occurs twice."""
    names = [case.name for case in (*GRAPHS, *RUNS)] + [case.name for case in FILES]
    names += [path.name for path in shared_models.MODELS]
    assert len(names) == len(set(names)) >= 180


@pytest.mark.parametrize("name", SOUND)
def test_sound_bundles_pass(name: str, forks: Forks, tmp_path: Path) -> None:
    """The control of the rest: rules that refuse everything would pass every other test of this file."""
    make, classes, texts = SOUND[name]
    folder = sound.write_bundle(tmp_path / "b", make(), sound.contract(classes=classes, texts=texts))
    assert forks.ask("judge", folder).how == "sound"
    assert forks.ask("probe", folder).how == "sound"


@pytest.mark.parametrize("case", GRAPHS, ids=lambda case: case.name)
def test_a_hostile_graph_is_refused_before_it_is_run(case: HostileGraph) -> None:
    """With a reason that names what is wrong, for the bundle's owner to mend."""
    made = case.make()
    with pytest.raises(BundleCorrupt, match=case.reason):
        check_graph(made if isinstance(made, bytes) else made.SerializeToString(), case.contract)


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.name)
def test_a_hostile_file_is_refused(case: HostileFile, base: Path, forks: Forks, tmp_path: Path) -> None:
    """Whatever the file; nothing that it holds is unpickled or executed."""
    folder = tmp_path / "bundle"
    shutil.copytree(base, folder)
    case.spoil(folder)
    outcome = forks.ask("judge", folder)
    assert outcome.how == "refused"
    assert re.search(case.reason, outcome.reason), outcome.reason
    assert not canary_of(folder).exists()


@pytest.mark.parametrize("path", shared_models.MODELS, ids=lambda path: path.stem)
def test_what_crashes_or_hangs_the_runtime_is_refused_before_it_is_run(
    path: Path, forks: Forks, tmp_path: Path
) -> None:
    """The control runs it: without the static checks it does crash, or does not end, and only the fork dies."""
    folder = shared_models.write(path, tmp_path / "bundle")
    outcome = forks.ask("judge", folder)
    assert outcome.how == "refused"
    assert re.search("input 1 is missing|a child does not exist", outcome.reason), outcome.reason
    crashes = path.name.startswith("crash")
    # what crashes does so at once, if the machine lets it run; what hangs takes all the time that it has
    control = forks.ask("bypass", folder, seconds=60.0 if crashes else 1.0)
    assert control.how == ("crashed" if crashes else "late")


@pytest.mark.parametrize("case", RUNS, ids=lambda case: case.name)
def test_what_only_a_run_shows_is_refused_by_the_child(case: HostileGraph, tmp_path: Path) -> None:
    """Too long, too large, not a number: in the real child, with its limits."""
    made = case.make()
    assert isinstance(made, onnx.ModelProto)
    check_graph(made.SerializeToString(), case.contract)
    folder = sound.write_bundle(tmp_path / "b", sound.trees(), case.contract)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    seal(folder)
    # only what does not end needs its time to be over; the others get as much as a busy machine takes for them
    seconds = 1.0 if "in time" in case.reason else 60.0
    with pytest.raises(BundleCorrupt, match=case.reason):
        check_in_child(folder, seconds=seconds, memory_mb=512)


def test_memory_that_grows_faster_than_the_rows_is_refused(tmp_path: Path) -> None:
    """64 golden rows are answered rightly and in 2 MB; a request of a thousand would take 8 GB."""
    folder = sound.write_bundle(tmp_path / "b", cubic(), sound.contract())
    check_graph((folder / "model.onnx").read_bytes(), sound.contract())
    with pytest.raises(BundleCorrupt, match=r"does not run|cannot be checked"):
        check_in_child(folder, memory_mb=1024)


@pytest.mark.parametrize("name", ["a pickle named .onnx", "a flipped bit", "truncated golden rows", "a pipe"])
def test_the_real_child_gives_the_same_reasons(name: str, base: Path, tmp_path: Path) -> None:
    """The forks above are the same checks under the same limits."""
    case = next(case for case in FILES if case.name == name)
    folder = tmp_path / "bundle"
    shutil.copytree(base, folder)
    case.spoil(folder)
    with pytest.raises(BundleCorrupt, match=case.reason):
        check_in_child(folder)
    assert not canary_of(folder).exists()


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """And so is a file in its place."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(BundleCorrupt, match=r"manifest\.json"):
            check_in_child(folder)


def _endless(folder: Path) -> Path:
    """A bundle whose graph passes the static checks and keeps a processor busy for minutes."""
    sound.write_bundle(folder, sound.trees(), sound.contract())
    made = next(case for case in RUNS if case.name == "an endless product").make()
    assert isinstance(made, onnx.ModelProto)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    seal(folder)
    return folder


def test_a_crash_of_the_child_is_a_verdict(tmp_path: Path) -> None:
    """No graph is known that passes the static checks and then crashes: a signal stands for one that is not yet."""
    folder = _endless(tmp_path / "b")
    with ThreadPoolExecutor(1) as pool:
        verdict = pool.submit(check_in_child, folder, seconds=60)
        _busy(os.getpid()).send_signal(signal.SIGSEGV)
        with pytest.raises(BundleCorrupt, match=r"crashed \(SIGSEGV\)"):
            verdict.result(timeout=30)


TRY = """
import os, socket, subprocess, sys
from registry.isolation import cut_network, limit_run
from registry.landlock import give_up
from pathlib import Path
parent, canary = int(sys.argv[1]), Path(sys.argv[2])
apart, kept_out = cut_network(), give_up(programs=True, others=True)
limit_run(seconds=5, memory_mb=512)
def write(): canary.write_text("x")
attempts = {
    "network": lambda: socket.create_connection(("127.0.0.1", int(sys.argv[3])), 2),
    "write": write,
    "remove": lambda: os.remove(sys.argv[4]),
    "program": lambda: os.execv("/bin/true", ["true"]),
    "memory": lambda: bytearray(2**31),
}
print(apart, kept_out)
for name, attempt in attempts.items():
    try:
        attempt()
        print("did", name)
    except (OSError, MemoryError):
        pass
print("end")
"""


def test_the_child_can_neither_call_out_nor_write_nor_start_programs(tmp_path: Path) -> None:
    """Where the kernel has Landlock and lets a process leave the network; bytes and memory are bounded everywhere."""
    import socket

    kept = tmp_path / "kept"
    kept.write_text("mine")
    canary = tmp_path / "canary"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        command = [sys.executable, "-c", TRY, str(os.getpid()), str(canary), port, str(kept)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    said = done.stdout.splitlines()
    assert not canary.exists() or canary.read_text() == ""
    assert "did memory" not in said
    held = said[0].split()
    if held[0] == "True":
        assert "did network" not in said
    if held[1] == "True":
        assert said[1:] == ["end"]
        assert (kept.read_text(), canary.exists()) == ("mine", False)


ASK = """
import sys
from pathlib import Path
from registry.sandbox import check_in_child
check_in_child(Path(sys.argv[1]), seconds=60)
"""


def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    """A killed puller leaves no graph running."""
    folder = _endless(tmp_path / "b")
    parent = subprocess.Popen([sys.executable, "-c", ASK, str(folder)], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        child = _busy(parent.pid)
        parent.send_signal(signal.SIGKILL)
    finally:
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs([child], timeout=30)
    assert alive == []


def _busy(pid: int) -> psutil.Process:
    """The sandbox's child of a process, once it has had time to ask to die with it."""
    for _ in range(3_000):
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "registry.sandbox" in child.cmdline() and child.cpu_times().user > 0.5:
                    return child
        time.sleep(0.01)
    raise AssertionError("no child was started")
