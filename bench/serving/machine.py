"""Where and when figures were seen: written beside them, because a figure without its machine means nothing."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path("bench/results")
_ASK = "import sys, json; from importlib.metadata import version; "


def facts() -> dict[str, Any]:
    """Processor, cores, system, Python, date, and how busy the machine is with other work."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": round(os.getloadavg()[0], 2),
    }


def versions(python: Path, packages: Iterable[str]) -> dict[str, str]:
    """Versions of `packages` in the environment of `python`; those it lacks are left out."""
    if python == Path(sys.executable):
        return {name: found for name in packages if (found := _version(name))}
    wanted = json.dumps(list(packages))
    code = f"{_ASK}print(json.dumps({{name: version(name) for name in {wanted}}}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    found_there: dict[str, str] = json.loads(done.stdout)
    return found_there


def tool(*command: str) -> str:
    """The first line in which a program names its version."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[0]


def save(name: str, found: dict[str, Any]) -> Path:
    """Keep the figures of one script."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path


def saved(name: str) -> dict[str, Any] | None:
    """The figures of one script, if it has been run."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
