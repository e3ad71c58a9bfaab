"""The exception for problems that the user can fix: its message names the file, the cause and the remedy."""

import errno
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

SHOWN = 20
"""Lines of a list in a message: of thousands of bad files, the first ones show what is wrong."""

DEBUG = "HARVEYSEG_DEBUG"
"""The environment variable that shows the traceback of every error; ``harveyseg --debug`` sets it."""

_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISNAMED = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}
"""A folder where a file is needed, or the other way round; names that cannot be."""
_DEFECT = (
    "This is a defect of harveyseg, or something that it did not expect. Please report it with the lines above, the "
    "command, and what `harveyseg doctor` prints."
)


class HarveysegError(Exception):
    """Bad input or a wrong setting. Stages and commands print it without a traceback and exit with 1.

    Args:
        message: file or setting, cause and remedy.
        problems: the problems that ``message`` lists, for callers that collect those of several checks.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)


def raise_problems(problems: Sequence[str], heading: str, remedy: str) -> None:
    """Raise one ``HarveysegError`` for all problems, or do nothing if there are none.

    Its message counts them and shows the first ``SHOWN``; its ``problems`` are all of them.

    Args:
        problems: one line each, which names the file or the setting.
        heading: what was being checked, e.g. ``"the photos in data/raw"``.
        remedy: what the user can do about it.

    Raises:
        HarveysegError: when ``problems`` is not empty.
    """
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in shortened(problems))
        raise HarveysegError(f"{heading}: {counted(len(problems), 'problem')}\n{lines}\n{remedy}", problems)


def counted(number: int, noun: str) -> str:
    """A number of things, in the right grammatical number.

    >>> counted(1, "photo"), counted(2, "bad file"), counted(0, "class")
    ('1 photo', '2 bad files', '0 classes')
    """
    plural = f"{noun}es" if noun.endswith("ss") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def first_names(names: Sequence[str], shown: int = 3) -> str:
    """The first names of a list in one line.

    >>> first_names(["a", "b", "c", "d"])
    'a, b, c, ...'
    """
    return ", ".join([*names[:shown], *(["..."] if len(names) > shown else [])])


def shortened(lines: Sequence[str]) -> list[str]:
    """The first ``SHOWN`` lines and how many more there are.

    >>> shortened([str(number) for number in range(23)])[-2:]
    ['19', '... and 3 more']
    """
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], *([f"... and {more} more"] if more > 0 else [])]


@contextmanager
def report_errors() -> Iterator[None]:
    """Around a command: print what the user can fix without a traceback, and exit with 1.

    That is a ``HarveysegError``, and a file or folder that the system does not let us use, or that is the other of the
    two. With ``HARVEYSEG_DEBUG=1`` the traceback comes first. Any other exception goes on, with a note on how to report
    it.
    """
    try:
        yield
    except HarveysegError as error:
        message = str(error)
        cause: Exception = error
    except OSError as error:
        if error.errno in _FORBIDDEN:
            remedy = (
                "Make the file and its folder readable and writable for you, or work elsewhere; then run the same "
                "command again."
            )
        elif error.errno in _MISNAMED and error.filename is not None:
            remedy = "Name another file or folder."
        else:
            error.add_note(_DEFECT)
            raise
        message = f"{error.filename}: {error.strerror}. {remedy}"
        cause = error
    except Exception as error:
        error.add_note(_DEFECT)
        raise
    else:
        return
    if os.environ.get(DEBUG, "") not in ("", "0"):
        traceback.print_exception(cause)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)
