"""An environment whose programs start at once, as forks of a process that has imported the libraries.

A stage spends up to 8 s on importing torch, MLflow and others, which is most of the time of tests that run the pipeline
dozens of times. Programs of this environment are processes as real ones are, with their own folder, environment, files
and signals; only the libraries, but not this package, are there before. Real ones make the checkout that most tests
copy (the fixture ``finished``).
"""

import atexit
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers.waiting import wait_until

PROGRAMS = ("dvc", "harveyseg", "python")
HELPERS = Path(__file__).parent
VARIABLES = {
    "DVC_NO_ANALYTICS": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # as harveyseg.tracking.client sets it before it imports MLflow
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "PYTHONUNBUFFERED": "1",
}
"""What the libraries read when they are imported, as in a project's environment."""


@functools.cache
def preloaded_environment() -> Path:
    """Start the server for this process's tests; the environment's folder, which is for ``VIRTUAL_ENV``."""
    kept = tempfile.TemporaryDirectory(prefix="env-")  # not in pytest's folder: a socket's path has at most 107 letters
    folder, real = Path(kept.name), Path(sys.executable)
    (folder / "bin").mkdir()
    client = f"#!{real} -IS\n" + (HELPERS / "preloaded_client.py").read_text(encoding="utf-8")
    for name in PROGRAMS:
        (folder / "bin" / name).write_text(client, encoding="utf-8")
        (folder / "bin" / name).chmod(0o755)
    command = [str(real), "-P", str(HELPERS / "preloaded_server.py"), str(folder), str(real.parent)]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("DVC", "MLFLOW", "PYTHON"))}
    # Its input is a pipe from this process, whose end is the server's.
    server = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env={**inherited, **VARIABLES})

    def stop() -> None:
        server.communicate()
        kept.cleanup()

    atexit.register(stop)
    wait_until((folder / "socket").exists, server, 600)
    return folder
