"""An erasure killed with kill -9 at random, twice, and then finished (promise 21, beside a living writer).

`PERENE_CHAOS=full` does so 100 times instead of 3.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from perene.erasure.receipt import read
from perene.erasure.verify import verify
from tests.integration.erasure_home import MODEL, move_in, settle_in, subject

ROUNDS = 100 if os.environ.get("PERENE_CHAOS") == "full" else 3

ERASER = """
import os, random, signal, sys, time
from pathlib import Path
from perene.config import Settings
from perene.erasure.erase import Asked, erase

dice = random.Random(7)
model, subject, *homes = sys.argv[1:]

def begin(home):
    child = os.fork()  # before anything has threads: an interpreter for each would take seconds
    if child == 0:
        erase(Settings(home=Path(home)), Asked(model, subject))
        os._exit(0)
    return child

for home in homes:
    for _ in range(2):
        child = begin(home)
        time.sleep(dice.uniform(0, 1.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert os.waitpid(begin(home), 0)[1] == 0
"""


def test_killed_at_random_it_is_finished_by_the_next_one(tmp_path: Path) -> None:
    """No row of the subject is left, none of the others is lost, and the last receipt counts all attempts."""
    village = settle_in(tmp_path / "village", 8)
    homes = [move_in(village, tmp_path / str(n)) for n in range(ROUNDS)]
    command = [sys.executable, "-c", ERASER, MODEL, subject(3), *(str(people.home) for people in homes)]
    subprocess.run(command, check=True)
    for people in homes:
        receipts = sorted((people.home / "erasures").glob("*.json"))
        assert verify(people.settings, receipts[-1]) == []
        # an attempt that was killed after its receipt left nothing to count
        assert len(people.ids[3]) in {read(path)["predictions"] for path in receipts}
        people.close()
        people.ship()
        assert people.hits([3]) == []
        found = set(people.lake.read(MODEL, "prediction").column("_id").to_pylist())
        assert found == {i for number, ids in people.ids.items() if number != 3 for i in ids}
