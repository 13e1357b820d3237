"""`python -m grafana --check FILE` or `--write FILE`: keep the dashboard file current."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from grafana.dashboard import render


def main(argv: Sequence[str] | None = None) -> int:
    """Check or write the dashboard file; 0 when it is current."""
    parser = argparse.ArgumentParser(prog="python -m grafana")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", type=Path, metavar="FILE", help="exit 1 when FILE is not current")
    action.add_argument("--write", type=Path, metavar="FILE", help="bring FILE up to date")
    arguments = parser.parse_args(argv)
    if arguments.write is not None:
        arguments.write.write_text(render(), encoding="utf-8")
        return 0
    path: Path = arguments.check
    if not path.is_file() or path.read_text(encoding="utf-8") != render():
        sys.stderr.write(f"{path} is not current: run `python -m grafana --write {path}`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
