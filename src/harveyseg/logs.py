"""Logging to stderr, one line for each message; what a command answers goes to stdout by ``print``."""

import logging
import sys
from typing import TextIO

from harveyseg.progress import cleared


class _Formatter(logging.Formatter):
    """``warning: text``, and plain text for messages of progress."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return message if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {message}"


class _Handler(logging.StreamHandler[TextIO]):
    """Messages get a line of their own, also while a bar is on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        with cleared():
            super().emit(record)


def configure_logging() -> None:
    """Show the package's messages from INFO on; called once by each stage and by the command ``harveyseg``."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Formatter())
    logger = logging.getLogger("harveyseg")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
