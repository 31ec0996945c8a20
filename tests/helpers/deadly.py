"""A worker that a file kills, as a decoder's fault could."""

import os
import signal
import time
from typing import Any

from purify_edge.bulk.cluster import Worker


class DeadlyWorker(Worker):
    """Ends at every file that is called deadly.png."""

    def _read(self, name: str, content: bytes | None) -> Any:
        if name.endswith("deadly.png"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1)  # so that other files are under way when that one comes
        return super()._read(name, content)
