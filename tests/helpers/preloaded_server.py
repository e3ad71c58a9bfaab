"""Runs programs as forks of a process that has imported the libraries which they use; see :mod:`helpers.preloaded`."""

import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

LIBRARIES = (
    "albumentations", "alembic.command", "cv2", "dvc.api", "dvc.cli", "dvc.cli.parser", "dvc.repo.experiments",
    "dvc.repo.reproduce", "iterstrat.ml_stratifiers", "matplotlib.backends.backend_agg", "matplotlib.figure",
    "mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store", "mlflow.tracking", "pandas",
    "PIL.JpegImagePlugin", "psutil", "requests", "rich.table", "ruamel.yaml", "safetensors.torch",
    "scipy.ndimage", "scipy.optimize", "sqlalchemy.dialects.sqlite", "torch._dynamo", "torch.utils.data", "tqdm",
    "typer",
)  # fmt: skip
"""What commands and stages import. The package itself is not among them: each checkout has its own."""


class Request(NamedTuple):
    """A program to run."""

    name: str
    arguments: list[str]
    folder: str
    environment: dict[str, str]


def main() -> None:
    environment, real = Path(sys.argv[1]), Path(sys.argv[2])
    for library in LIBRARIES:
        importlib.import_module(library)
    import numpy as np

    gc.freeze()  # else every fork's garbage collection would copy all of the memory
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(environment / "starting"))
        listening.listen()
        os.rename(environment / "starting", environment / "socket")
        request = serve(listening)
    # From here on this is a fork, and it is the program.
    random.seed()
    np.random.seed()
    sys.executable = str(environment / "bin" / "python")
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    end(run, request, real)


def end(program: Callable[..., None], *arguments: object) -> NoReturn:
    """Run a program and end this process with its code, without the seconds of taking all libraries down."""
    code: object = 0
    try:
        program(*arguments)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # what Python itself does first when it ends
    atexit._run_exitfuncs()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def serve(listening: socket.socket) -> Request:
    """Fork for each request, which is what this returns in the fork; end when the process that started this ends."""
    with selectors.DefaultSelector() as selector:
        selector.register(listening, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        children: dict[socket.socket, tuple[int, int]] = {}  # connection -> process and its descriptor
        while True:
            for key, _ in selector.select():
                if key.fileobj is listening:
                    connection, _ = listening.accept()
                    request, files = receive(connection)
                    pid = os.fork()
                    if not pid:
                        for other in (listening, connection, *children):
                            other.close()
                        for descriptor in (process for _, process in children.values()):
                            os.close(descriptor)
                        for number, file in enumerate(files):
                            os.dup2(file, number)
                            os.close(file)
                        return request
                    for file in files:
                        os.close(file)
                    process = os.pidfd_open(pid)
                    children[connection] = (pid, process)
                    selector.register(connection, selectors.EVENT_READ, connection)
                    selector.register(process, selectors.EVENT_READ, connection)
                    connection.sendall(struct.pack("!q", pid))
                elif key.fileobj == 0:
                    for pid, _ in children.values():
                        os.kill(pid, signal.SIGKILL)
                    os._exit(0)
                elif key.data in children:
                    connection = key.data
                    pid, process = children.pop(connection)
                    selector.unregister(connection)
                    selector.unregister(process)
                    if key.fileobj is connection:  # the client was killed
                        os.kill(pid, signal.SIGKILL)
                    _, status = os.waitpid(pid, 0)
                    with contextlib.suppress(OSError):
                        connection.sendall(struct.pack("!q", os.waitstatus_to_exitcode(status)))
                    connection.close()
                    os.close(process)


def receive(connection: socket.socket) -> tuple[Request, list[int]]:
    """A request, and the files that are the program's input, output and errors."""
    head, files, _, _ = socket.recv_fds(connection, 8, 3)
    (length,) = struct.unpack("!Q", head)
    name, arguments, folder, environment = json.loads(connection.recv(length, socket.MSG_WAITALL))
    return Request(name, arguments, folder, environment), files


def run(request: Request, real: Path) -> None:
    """Run what the program would: a script of the environment, ``python -P SCRIPT`` or ``python -m MODULE``."""
    sys.path[:0] = [folder for folder in request.environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    if request.name != "python":
        sys.argv = [str(real / request.name), *request.arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")
    elif request.arguments[0] == "-P":
        sys.argv = request.arguments[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        sys.argv = request.arguments[1:]
        sys.path.insert(0, request.folder)
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
