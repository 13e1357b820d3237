"""A real S3 server on loopback: moto's, which keeps buckets in memory."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from pyarrow import fs

WAIT_S = 120.0
BUCKET = "lake"


class S3:
    """Starts, stops and starts again on one port; what it holds is lost when it stops."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        command = shutil.which("moto_server", path=str(Path(sys.executable).parent)) or "moto_server"
        self._process = subprocess.Popen(
            [command, "-H", "127.0.0.1", "-p", str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the S3 server did not start"
                time.sleep(0.05)
        options = {"scheme": "http", "endpoint_override": f"127.0.0.1:{self.port}", "region": "us-east-1"}
        keys = {"access_key": "test", "secret_key": "test"}
        fs.S3FileSystem(**options, **keys, allow_bucket_creation=True).create_dir(BUCKET)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(WAIT_S)

    def url(self, prefix: str) -> str:
        """A root for a lake."""
        return f"s3://{BUCKET}/{prefix}?scheme=http&endpoint_override=127.0.0.1:{self.port}&region=us-east-1"
