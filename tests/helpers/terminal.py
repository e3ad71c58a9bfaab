"""Programs that run in a terminal of their own."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_in_terminal(
    command: Sequence[str | Path],
    columns: int = 120,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> tuple[int, str]:
    """Run a program whose stdout and stderr are a new terminal; its exit status and all that it wrote there."""
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    settings = {**os.environ, "TERM": "xterm", **(environment or {})}
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=settings, cwd=folder
    ) as process:
        os.close(terminal)
        written = b""
        while True:
            try:
                block = os.read(reader, 65536)
            except OSError:  # how Linux says that nobody has the terminal open any more
                block = b""
            if not block:
                break
            written += block
    os.close(reader)
    return process.returncode, written.decode()


def screen(written: str) -> list[str]:
    """What stands on a terminal's screen at the end."""
    lines: list[str] = []
    for line in written.split("\r\n"):
        shown = ""
        for text in line.split("\r"):
            shown = text + shown[len(text) :]
        lines.append(shown.rstrip())
    return [line for line in lines if line]
