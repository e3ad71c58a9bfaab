"""Stands where a program of the environment is expected, and has the server of :mod:`helpers.preloaded` run it.

It passes on its arguments, folder, environment and open files, then the signals that it gets; it ends as the program
ends. The server ends the program when this process is killed.
"""

import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HANDLED_OPTIONS = ("-P", "-m")
"""First arguments of ``python`` that the server understands."""


def main() -> None:
    program = Path(sys.argv[0])
    environment = program.parent.parent
    if program.name == "python" and sys.argv[1:2] not in [[option] for option in HANDLED_OPTIONS]:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    request = json.dumps([program.name, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(environment / "socket"))
        socket.send_fds(connection, [struct.pack("!Q", len(request))], [0, 1, 2])
        connection.sendall(request)
        (pid,) = struct.unpack("!q", connection.recv(8, socket.MSG_WAITALL))
        for number in FORWARDED:
            signal.signal(number, lambda received, _: os.kill(pid, received))
        (code,) = struct.unpack("!q", connection.recv(8, socket.MSG_WAITALL))
    if code < 0:  # killed by a signal
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
