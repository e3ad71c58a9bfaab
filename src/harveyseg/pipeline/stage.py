"""Running a stage script: its options, its signals, and its errors."""

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import typer

from harveyseg.errors import HarveysegError
from harveyseg.logs import configure_logging


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(f"signal {signal.Signals(signum).name}")


def run(main: Callable[..., Any]) -> None:
    """Run a stage's command: parse the options, and print a ``HarveysegError`` without a traceback (exit 1).

    SIGTERM is turned into ``KeyboardInterrupt``, so that a training that is asked to stop marks its run as KILLED.
    """
    signal.signal(signal.SIGTERM, _terminate)
    configure_logging()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except HarveysegError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
