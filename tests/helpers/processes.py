"""The processes that work in a folder, and where processes listen."""

from pathlib import Path

import psutil  # type: ignore[import-untyped]


def processes_in(folder: Path) -> list[psutil.Process]:
    """Every process that works in a folder: the command, DVC, its stages."""
    inside = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                inside.append(process)
        except (psutil.Error, OSError):
            continue
    return inside


def listening(process: psutil.Process) -> set[str]:
    """The addresses on which a process accepts connections."""
    connections = process.net_connections("tcp")
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    }
