"""One batch job as a process, to be killed: `python -m tests.chaos.batch_job BUNDLE FILE OUT MANNER`.

`careful` is the job as it is. The others have a bug that the test must see: `early` gives the output its name before
it is complete, `forgetful` answers again what parts hold already.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from serving.batch.chunk import Place
from serving.batch.job import _Work
from serving.batch.parts import Parts, Write
from tests.integration.batch_files import job

PART = 250


def early(parts: Parts, name: str, write: Write) -> Any:
    """Write the output under its own name, so slowly that the next kill finds it half written."""
    made = careful_write(parts, name, write)
    if name == "output":
        data = (parts.folder / name).read_bytes()
        with parts.out.open("wb") as file:
            for start in range(0, len(data), len(data) // 4):
                file.write(data[start : start + len(data) // 4])
                file.flush()
                time.sleep(1.0)
    return made


def forgetful(work: _Work, _start: Place) -> None:
    """Read from the first row, whatever is answered."""
    careful_read(work, Place())


def slow(parts: Parts, name: str, write: Write) -> Any:
    """Write a part so slowly that a kill finds the job half-way however fast the machine is."""
    time.sleep(0.02)
    return careful_write(parts, name, write)


careful_write, careful_read = Parts.write, _Work._read

if __name__ == "__main__":
    bundle, file, out, manner = sys.argv[1:5]
    if manner == "early":
        Parts.write = early  # type: ignore[method-assign, assignment]
    if manner == "forgetful":
        _Work._read, Parts.write = forgetful, slow  # type: ignore[method-assign, assignment]
    job(Path(bundle), Path(file), Path(out), errors="skip", keep=("id",), rows_per_part=PART)
