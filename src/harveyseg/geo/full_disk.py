"""GDAL's errors where a disk is full: they say that a write failed, but not why."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harveyseg.errors import HarveysegError

_FULL = 2**20
"""Bytes: with less than this left, a failed write is put down to the disk."""


@contextmanager
def noticing_full_disk(folder: Path) -> Iterator[None]:
    """Give a failed write its cause, if the disk of ``folder`` is full.

    It goes inside :func:`harveyseg.files.atomic`, where the file that fills the disk still exists.

    Raises:
        OSError: ENOSPC, in place of the library's error.
    """
    try:
        yield
    except HarveysegError:
        raise
    except Exception as error:
        if shutil.disk_usage(folder).free >= _FULL:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
