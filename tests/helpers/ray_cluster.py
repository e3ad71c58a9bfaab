"""A cluster of several Ray nodes on this machine, each with processes of its own that can be killed."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from helpers.ports import free_port
from helpers.waiting import wait_until


class RayCluster:
    """Started by the first :meth:`add`.

    Args:
        environment: of all nodes and commands; its home gets Ray's token.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**environment, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # names of sockets are short
        self._port = free_port()
        self._nodes: list[subprocess.Popen[bytes]] = []
        self.address = ""

    def add(
        self, cores: int = 1, python_path: Path | None = None, cache_home: Path | None = None, gpus: int = 0
    ) -> None:
        """Start one more node. Its GPUs are only counted."""
        environment = dict(self._environment)
        if cache_home is not None:
            environment["XDG_CACHE_HOME"] = str(cache_home)
        if python_path is not None:
            environment["PYTHONPATH"] = os.pathsep.join([str(python_path), environment.get("PYTHONPATH", "")])
        ray = str(Path(sys.executable).with_name("ray"))
        if not self._nodes:
            subprocess.run(
                [ray, "get-auth-token", "--generate"], env=environment, check=True, stdout=subprocess.DEVNULL
            )
        where = ["--address", self.address] if self._nodes else ["--head", "--port", str(self._port)]
        where += [] if self._nodes else ["--include-dashboard", "false", "--temp-dir", str(self._folder)]
        log = self._folder / f"node-{len(self._nodes)}.log"
        with log.open("w") as opened:
            node = subprocess.Popen(
                [ray, "start", *where, "--num-cpus", str(cores), "--num-gpus", str(gpus), "--block"],
                env=environment,
                stdout=opened,
                stderr=opened,
                start_new_session=True,
            )
        self._nodes.append(node)
        wait_until(lambda: "Ray runtime started." in log.read_text(), node)
        if not self.address:
            line = next(line for line in log.read_text().splitlines() if "Local node IP:" in line)
            self.address = f"{line.split()[-1]}:{self._port}"

    def kill(self, node: int, trainings: bool) -> None:
        """End a node at once.

        Args:
            node: its number, from 0.
            trainings: whether what its tasks have started ends as well, as it does where the machine is lost.
        """
        started = psutil.Process(self._nodes[node].pid)
        for process in [started, *started.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):  # it has just ended
                if trainings or any("ray" in part for part in process.cmdline()[:2]):
                    process.send_signal(signal.SIGKILL)
        self._nodes[node].wait()

    def stop(self) -> None:
        """End everything."""
        for node in reversed(self._nodes):
            if node.poll() is None:
                processes = psutil.Process(node.pid).children(recursive=True)
                for process in [*processes, psutil.Process(node.pid)]:
                    if process.is_running():
                        process.kill()
                node.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
