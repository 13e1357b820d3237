"""One replay as a process, to be killed: `python -m tests.chaos.replay_job BUNDLE LAKE OUT MANNER`.

`careful` is the replay as it is. The others have a bug that the test must see: `early` gives the output its name
before it is complete, `forgetful` begins at the first row whatever the journal says.
"""

from __future__ import annotations

import sys
from pathlib import Path

from monitoring.lake.lake import Lake
from serving.batch.job import _Work
from serving.batch.parts import Parts
from tests.chaos.batch_job import early, forgetful, slow
from tests.integration.recorded_toy import again

PART = 250

if __name__ == "__main__":
    bundle, lake, out, manner = sys.argv[1:5]
    if manner == "early":
        Parts.write = early  # type: ignore[method-assign, assignment]
    if manner == "forgetful":
        _Work._read, Parts.write = forgetful, slow  # type: ignore[method-assign, assignment]
    again(Path(bundle), Lake(lake), Path(out), rows_per_part=PART)
