"""A real Slurm on this machine: its controller and two nodes with a GPU each, which is only counted."""

import getpass
import os
import shutil
import socket
import subprocess
from pathlib import Path

from helpers.ports import free_port
from helpers.waiting import wait_until

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch")
NODES = ("one", "two")

_SETTINGS = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
PartitionName=all Nodes=ALL Default=YES State=UP
"""


class Slurm:
    """Its daemons, once :meth:`start` was called, until :meth:`stop`.

    Args:
        folder: for their files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        settings = folder / "slurm.conf"
        self.environment = {"SLURM_CONF": str(settings)}
        self._daemons: list[subprocess.Popen[bytes]] = []
        host = socket.gethostname().partition(".")[0]
        text = _SETTINGS.format(host=host, port=free_port(), user=getpass.getuser(), folder=folder)
        for node in NODES:
            text += f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=8 Gres=gpu:1\n"
        settings.write_text(text)
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        (folder / "state").mkdir()

    def start(self) -> None:
        """Start the daemons, and wait until both nodes can take jobs."""
        folder = self.folder
        subprocess.run(["mungekey", "--create", f"--keyfile={folder}/key"], check=True)
        files = {"socket": "munge", "key-file": "key", "pid-file": "munge.pid", "seed-file": "seed"}
        # --force: the folders of tests are open to others.
        self._start("munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in files.items()))
        wait_until((folder / "munge").exists, self._daemons[-1], seconds=30)
        self._start("slurmctld", "-D")
        for node in NODES:
            self._start("slurmd", "-D", "-N", node)
        wait_until(lambda: self.ask("sinfo", "-hN", "-o", "%t") == ["idle"] * len(NODES), self._daemons[-1], seconds=60)

    def _start(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.log").open("a") as log:
            daemon = subprocess.Popen(command, env=os.environ | self.environment, stdout=log, stderr=log)
        self._daemons.append(daemon)

    def ask(self, *command: str) -> list[str]:
        """The lines that one of Slurm's commands prints; none while the controller does not answer yet."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        return done.stdout.split("\n")[:-1] if done.returncode == 0 else []

    def stop(self) -> None:
        """End the daemons, those of the nodes first."""
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in reversed(self._daemons):
            daemon.wait(60)


def missing_programs() -> list[str]:
    """Those of Slurm's programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]
