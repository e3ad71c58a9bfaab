"""Waiting for what another process does."""

import subprocess
import time
import urllib.request
from collections.abc import Callable
from typing import Any


def wait_until(
    condition: Callable[[], object], process: "subprocess.Popen[Any] | None" = None, seconds: float = 300
) -> None:
    """Ask again and again, at most so long, and no longer than the process runs that is to fulfil the condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        assert process is None or process.poll() is None, "the process ended"
        time.sleep(0.005)


def answers(address: str) -> bool:
    """Whether a server answers at this address."""
    try:
        urllib.request.urlopen(address, timeout=2).close()
    except OSError:
        time.sleep(0.1)
        return False
    return True
