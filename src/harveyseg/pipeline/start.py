"""What a process that lives for seconds does first: it keeps Python from looking for garbage among what it imports.

To be imported before all else by each stage's script and by the command ``harveyseg``, not by a library. Torch and
MLflow leave half a million objects that stay until the end. Python looked through them a thousand times while they were
imported, and took them apart one by one before it ended, which was three of a stage's five seconds
(``benchmarks/overhead.py``). What is in no cycle, which is nearly all, is freed at once as ever.
"""

import atexit
import gc
import os
import sys


def _end_at_once() -> None:
    """Leave it to the system to free the memory."""
    gc.freeze()
    if "triton" in sys.modules:  # it comes with torch, and would list on stderr what it finds not freed
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


gc.set_threshold(100_000)
atexit.register(_end_at_once)  # as the first, so it is called last
