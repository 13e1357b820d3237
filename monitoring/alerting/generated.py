"""Files that are written from code: one command line to write them, or to check that they are current."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def keep_current(
    module: str,
    render: Callable[[], str],
    argv: Sequence[str] | None = None,
    *,
    options: Sequence[argparse.ArgumentParser] = (),
) -> int:
    """`python -m MODULE --write FILE` or `--check FILE`; 0 when the file is current.

    Args:
        module: who writes the file.
        render: the file's text.
        argv: the command line, else this process's.
        options: parsers of options that the caller has read already, for the help.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", parents=options, allow_abbrev=False)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", type=Path, metavar="FILE", help="exit 1 when FILE is not current")
    action.add_argument("--write", type=Path, metavar="FILE", help="bring FILE up to date")
    arguments = parser.parse_args(argv)
    if arguments.write is not None:
        arguments.write.write_text(render(), encoding="utf-8")
        return 0
    path: Path = arguments.check
    if not path.is_file() or path.read_text(encoding="utf-8") != render():
        sys.stderr.write(f"{path} is not current: run `python -m {module} --write {path}`\n")
        return 1
    return 0
