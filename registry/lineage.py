"""What a version was made with: interpreter, libraries, the commit of the code."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from typing import Any

from registry import __version__
from registry.parts import parts


def environment(estimator: Any) -> dict[str, Any]:
    """Python, this package, the libraries of the estimator's parts, and the working tree's commit if it has one."""
    packages = {type(part).__module__.partition(".")[0] for part in [estimator, *parts(estimator)]}
    versions = {name: getattr(sys.modules.get(name), "__version__", None) for name in sorted(packages)}
    return {
        "python": platform.python_version(),
        "perene": __version__,
        "packages": {name: str(version) for name, version in versions.items() if version is not None},
        "code": _commit(),
    }


def algorithm(estimator: Any) -> str:
    """The estimator's class, or the classes of a pipeline's steps."""
    steps = getattr(estimator, "steps", None)
    return " → ".join(type(step).__name__ for _, step in steps) if steps else type(estimator).__name__


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    try:
        said = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""
