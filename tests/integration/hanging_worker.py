"""A worker of the fleet with nothing but its channel: it answers for a while, then the first one hangs.

`python -m tests.integration.hanging_worker FLAG --channel N`; the file FLAG tells that one has hung before.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from pathlib import Path

from serving.fleet.aggregate import Family, Sample, Snapshot
from serving.fleet.exchange import Peer


async def main(flag: Path, channel: socket.socket) -> None:
    """Be asked three times in order, then not at all if nobody was before."""
    asked = 0

    async def give() -> Snapshot:
        nonlocal asked
        asked += 1
        if asked > 3 and not flag.exists():
            flag.touch()
            time.sleep(600)  # what a stuck event loop is
        return (Family("asked", "text", "counter", (Sample("asked_total", (), float(asked)),)),)

    await Peer(channel, give, lambda _: None).run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[3]))))
