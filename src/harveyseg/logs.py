"""Logging to stderr, one line for each message; what a command answers goes to stdout by ``print``."""

import logging
import sys


class _Formatter(logging.Formatter):
    """``warning: text``, and plain text for messages of progress."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return message if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {message}"


def configure_logging() -> None:
    """Show the package's messages from INFO on; called once by each stage and by the command ``harveyseg``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logger = logging.getLogger("harveyseg")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
