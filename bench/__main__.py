"""`make bench`: everything the README quotes, printed as Markdown. Needs a home that `make up` or `make demo` left."""

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


def main() -> None:
    """Demo from an empty home, then single-row serving on the model it left."""
    with tempfile.TemporaryDirectory() as folder:
        home = str(Path(folder) / "home")
        perene = str(Path(sys.executable).parent / "perene")
        print("## The loop: from nothing to a promotion\n", flush=True)
        timed("demo until the first promotion", perene, "demo", "flights", "--until-promoted", "--json", "--home", home)
        print("## Single-row predictions\n", flush=True)
        subprocess.run([sys.executable, "-m", "bench.serving.single_row", "--home", home], check=True)


if __name__ == "__main__":
    main()
