"""A real browser for tests: Chromium without a screen opens a file, and tells what its scripts complain of."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_ERROR = re.compile(r'CONSOLE[^"]*"(Uncaught [^"]*|Refused to [^"]*|[^"]*violates the following Content Security.*?)"')


def opened(page: Path, scratch: Path) -> tuple[str, list[str]]:
    """The document once its scripts have run, and what went wrong in them.

    Args:
        page: an HTML file.
        scratch: a folder for the browser's own files.
    """
    binary = next((found for name in NAMES if (found := shutil.which(name))), None)
    if binary is None:
        pytest.fail("chromium is missing: run scripts/apt")
    # without its sandbox, because tests run as root; the pages are ours
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--enable-logging=stderr"]
    command = [binary, *flags, f"--user-data-dir={scratch}", "--dump-dom", page.absolute().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, _ERROR.findall(done.stderr)
