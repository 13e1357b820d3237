"""`make bench`: everything that the README and docs/benchmarks.md quote; about an hour, on a quiet machine.

The loop from nothing to a promotion; single rows on the model it left; then serving beside its peers, each installed
into an environment of its own, and docs/benchmarks.md written anew.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path


def timed(title: str, *command: str) -> None:
    """Run a command and print how long it took."""
    began = time.perf_counter()
    subprocess.run(command, check=True)
    print(f"\n{title}: {time.perf_counter() - began:.1f} s\n", flush=True)


SERVING = ("peers", "heavy", "bulk", "overload", "swaps", "workers", "addons", "batch", "table")
"""Scripts of `bench.serving`, in the order in which they are run; each saves its figures in bench/results."""

EVENTS = ("append", "lake")
"""Scripts of `bench.events`, alike."""


def main() -> None:
    """All of it, one after the other: two at once would measure each other."""
    with tempfile.TemporaryDirectory() as folder:
        home = str(Path(folder) / "home")
        perene = str(Path(sys.executable).parent / "perene")
        print("## The loop: from nothing to a promotion\n", flush=True)
        timed("demo until the first promotion", perene, "demo", "flights", "--until-promoted", "--json", "--home", home)
        print("## Single-row predictions\n", flush=True)
        subprocess.run([sys.executable, "-m", "bench.serving.single_row", "--home", home], check=True)
    print("## Serving beside its peers\n", flush=True)
    timed("peers installed", "bench/peers/setup", "all")
    for script in SERVING:
        timed(script, sys.executable, "-m", f"bench.serving.{script}")
    print("## Events\n", flush=True)
    for script in EVENTS:
        timed(script, sys.executable, "-m", f"bench.events.{script}")


if __name__ == "__main__":
    main()
