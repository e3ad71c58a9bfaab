"""MLflow's UI at the prepared views: the server of the project's own database, or the address of a team's server."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import webbrowser
from importlib.metadata import version
from pathlib import Path

from harveyseg.errors import HarveysegError
from harveyseg.tracking.client import Tracker, TrackingParams, open_tracker
from harveyseg.tracking.faults import public_address
from harveyseg.tracking.views import experiment_views

_START_SECONDS = 600
"""MLflow's server needs about 20 s on two idle cores, and minutes on busy ones."""
_END_SECONDS = 10


def show_ui(params: TrackingParams, root: Path, host: str, port: int, open_browser: bool) -> int:
    """Print the addresses of the prepared views and open the first one in the browser.

    For the project's own database, MLflow's server is started and runs until Ctrl-C. A team's server runs already.

    Args:
        params: section ``tracking``.
        root: the project's root.
        host: where the server listens, e.g. "127.0.0.1", or "0.0.0.0" for other machines, too.
        port: of the server.
        open_browser: whether to open the browser, where there is one.

    Returns:
        The exit status of the server.

    Raises:
        HarveysegError: when MLflow cannot be used, the port is in use, or the server does not start.
    """
    tracker = open_tracker(params, root, required=True)
    if tracker.uri.startswith(("http://", "https://")):
        _announce(tracker, public_address(tracker.uri), open_browser)
        return 0
    _require_free(host, port)
    print("MLflow's server starts, which takes some 20 seconds.", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--host", host, "--port", str(port)]
    command += ["--backend-store-uri", tracker.uri, "--uvicorn-opts", "--log-level warning"]
    # One worker and no job runners: it starts fastest and needs the least memory.
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen(
        command, env={**os.environ, **settings, "PYTHONWARNINGS": "ignore"}, start_new_session=True
    )
    ended = signal.signal(signal.SIGTERM, _interrupt)
    try:
        address = f"http://{_reachable(host)}:{port}"
        _wait_for(server, address)
        _announce(tracker, address, open_browser)
        print("Ctrl-C ends the server.", flush=True)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, ended)
        _end(server)


def _announce(tracker: Tracker, server: str, open_browser: bool) -> None:
    installed = version("mlflow")
    views = experiment_views(tracker.experiment_tags)
    addresses = [view.address(server, tracker.experiment_id, installed) for view in views]
    print(f"MLflow: {addresses[0]}")  # not the server's own address, which opens a page without a run
    for view, address in zip(views, addresses, strict=True):
        print(f"  {view.name}: {address}")
    sys.stdout.flush()
    if open_browser and _has_browser():
        # A browser that is set by BROWSER may run until it is closed.
        threading.Thread(target=webbrowser.open, args=[addresses[0]], daemon=True).start()
        time.sleep(1)  # a thread ends with its process


def _has_browser() -> bool:
    """Whether a window can be opened; Python would otherwise start a browser in the terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _require_free(host: str, port: int) -> None:
    """Refuse a port on which something listens: MLflow's own error comes late and does not say what to do."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as opened:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            opened.bind(address)
    except OSError as error:
        raise HarveysegError(
            f"{host}:{port} cannot be used for MLflow's server: {error.strerror or error}. If another server runs "
            f"there, end it, or take another port: `harveyseg ui --port {port + 1}`"
        ) from None


def _reachable(host: str) -> str:
    """The host part of an address that leads to a server of this machine."""
    if host in ("0.0.0.0", "::", ""):  # every address of this machine
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _wait_for(server: "subprocess.Popen[bytes]", address: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(f"{address}/health"):
        if (status := server.poll()) is not None:
            raise HarveysegError(f"MLflow's server ended with status {status}; what it printed above says why")
        if time.monotonic() > deadline:
            raise HarveysegError(f"MLflow's server at {address} has not answered for {_START_SECONDS} s. Try again.")
        time.sleep(0.2)


def _answers(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine needs no proxy
    try:
        with opener.open(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _end(server: "subprocess.Popen[bytes]") -> None:
    """End the server with its workers, which are processes of its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
            server.wait(_END_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
