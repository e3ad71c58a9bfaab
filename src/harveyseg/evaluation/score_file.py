"""``harveyseg score``: the score of a submission file, at the size for which its runs were written.

A run is two numbers that mean pixels of a mask of one size only, and the file does not name it: read at another size,
the same runs are other shapes, and their score is a plausible wrong number. So the size comes from the record that the
pipeline writes next to its submissions, or from the user; a size that is only assumed is tested against the runs.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.fft

from harveyseg.arrays import FloatArray, IntArray
from harveyseg.classes import ClassList
from harveyseg.data.class_lists import parse_classes
from harveyseg.errors import HarveysegError
from harveyseg.evaluation.submission import mask_files, masks_size, read_rows, score_submission
from harveyseg.files import read_json, sha256

Size = tuple[int, int]
RECORD = "submission.json"
_REMEDY = "Run `dvc repro submit`, or move the submission away from this file."
_STATE_IT = "State the size for which the file was written, e.g. --size 1024, --size 720x960 or --size masks."

_ROWS = 8
"""So many rows, of different photos, tell the width; those with the most runs."""
_PIXELS = 2**21
"""Of each of them, which bounds the time."""
_ALIKE = 0.7
"""Where a lag is the width, masks agree with themselves by at least this share."""
_WORSE, _WORSE_NEAR = 1.5, 3.0
"""And at another width, they differ from themselves by more than so many times as much. At a width that is nearly the
same, by more: shapes that run diagonally across a photo agree best a little beside its width."""


class ScoredFile(NamedTuple):
    """The score of a submission, and how it was read."""

    metrics: dict[str, float]
    """See :func:`harveyseg.score.pair_metrics`."""
    size: Size
    """(height, width) of its masks in pixels."""
    known_by: str
    """Where this size is from."""


class _Recorded(NamedTuple):
    classes: ClassList
    size: Size


class _Rows(NamedTuple):
    """The rows of a submission."""

    names: list[str]
    runs: list[IntArray]
    """Start and length of each run, int64 (n, 2)."""
    ends: list[int]
    """The last pixel of each row, from 1; 0 where it has none."""


def parse_size(text: str) -> Size | None:
    """The option ``--size``; None stands for the size of the true masks.

    >>> parse_size("1024"), parse_size("720x960"), parse_size("masks")
    ((1024, 1024), (720, 960), None)

    Raises:
        HarveysegError: when it is something else.
    """
    if text == "masks":
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text)
    if found is None:
        raise HarveysegError(f"--size {text}: give pixels as 1024 or HEIGHTxWIDTH, or `masks` for the masks' own size.")
    height, width = found.groups()
    return int(height), int(width or height)


def score_file(
    path: Path, masks_dir: Path, classes: ClassList, setting: Size | None, setting_name: str, stated: str | None = None
) -> ScoredFile:
    """Score a submission against a folder of masks, at the size for which it was written.

    The record next to the file (``submission.json`` with the file's digest) decides on size and classes, then what the
    user states, then the setting; a size from the setting must suit the runs.

    Args:
        path: the submission, see :func:`harveyseg.evaluation.submission.read_submission`.
        masks_dir: see :func:`harveyseg.evaluation.submission.score_submission`.
        classes: the list of classes, where no record says another.
        setting: (height, width) of the masks where nothing else says it; None for the size of the true masks.
        setting_name: where ``setting`` is from, for the output.
        stated: the option ``--size``.

    Raises:
        HarveysegError: when the file cannot be scored, or its runs were written for another size.
    """
    mask_files(masks_dir)
    wanted = setting if stated is None else parse_size(stated)
    recorded = _recorded(path)
    size = wanted if wanted is not None else masks_size(masks_dir)
    if recorded is not None:
        if stated is not None and size != recorded.size:
            raise HarveysegError(
                f"{path}: was written for masks of {_text(recorded.size)}, as {path.parent / RECORD} says, not for "
                f"{_text(size)}. Leave --size out."
            )
        known_by = f"as {path.parent / RECORD} says"
        if size != recorded.size:
            known_by += f", not the {_text(size)} of {setting_name}"
        if classes.identity() != recorded.classes.identity():
            known_by += f"; so are the classes, {recorded.classes.name}"
        classes, size = recorded.classes, recorded.size
    elif stated is not None:
        known_by = "as --size says"
    else:
        rows = _read_runs(path)
        not_this = f"{path}: was not written for masks of {_text(size)} ({setting_name})"
        _check_end(rows, size, not_this)
        metrics = score_submission(path, masks_dir, classes, size)  # names rows that are no runs
        _check_shapes(rows, size, not_this)
        known_by = f"assumed from {setting_name}, since the file does not say it"
        return ScoredFile(metrics, size, known_by)
    return ScoredFile(score_submission(path, masks_dir, classes, size), size, known_by)


def _recorded(path: Path) -> _Recorded | None:
    """What the pipeline wrote of this very file; None for a file of another origin or content."""
    side_car = path.parent / RECORD
    if not side_car.is_file() or not path.is_file():
        return None
    content = read_json(side_car, _REMEDY)
    files = content.get("files")
    about = files.get(path.name) if isinstance(files, dict) else None
    if not isinstance(about, dict) or about.get("sha256") != sha256(path):
        return None
    classes = parse_classes(content.get("classes"), side_car, _REMEDY)
    match content.get("score_size"):
        case [int(height), int(width)]:
            return _Recorded(classes, (height, width))
    raise HarveysegError(f"{side_car}: does not say the size of the masks. {_REMEDY}")


def _check_end(rows: _Rows, size: Size, not_this: str) -> None:
    """Refuse a size whose masks are too small for the runs; ``not_this`` begins the message."""
    pixels, end = size[0] * size[1], max(rows.ends, default=0)
    if end > pixels:
        beyond = sum(other > pixels for other in rows.ends)
        raise HarveysegError(
            f"{not_this}: {beyond} of {len(rows.ends)} rows go beyond the last pixel, {pixels}; row "
            f"{rows.names[rows.ends.index(end)]!r} goes to {end}. {_STATE_IT}"
        )


def _check_shapes(rows: _Rows, size: Size, not_this: str) -> None:
    """Refuse a size at which the runs make no shapes, where they make some at another width."""
    pixels, end = size[0] * size[1], max(rows.ends, default=0)
    agreement = _agreement(_richest(rows), min(end, _PIXELS))
    width = _width(agreement)
    if width is None:
        if 0 < end <= pixels // 2:
            raise HarveysegError(f"{not_this}, as it seems: no run goes beyond pixel {end} of {pixels}. {_STATE_IT}")
        return
    differing = 1 - (agreement[size[1]] if size[1] < len(agreement) else 0.0)
    near = abs(width - size[1]) <= size[1] // 64
    worse = (_WORSE_NEAR if near else _WORSE) * (1 - agreement[width])
    if abs(width - size[1]) > 2 and differing > worse:
        raise HarveysegError(
            f"{not_this}, as it seems: its runs make shapes in masks that are {width} pixels wide. {_STATE_IT}"
        )


def _read_runs(path: Path) -> _Rows:
    table = read_rows(path)
    runs = [_runs(row) for row in table.iloc[:, 1]]
    ends = [int(pairs.sum(axis=1).max()) - 1 if pairs.size else 0 for pairs in runs]
    return _Rows(table.iloc[:, 0].tolist(), runs, ends)


def _runs(row: str) -> IntArray:
    """Start and length of each run, int64 (n, 2); none where the row is no such list, which others complain about."""
    try:
        values = np.array(row.split(), np.int64)
    except (ValueError, OverflowError):
        values = np.empty(0, np.int64)
    return values[: values.size // 2 * 2].reshape(-1, 2)


def _richest(rows: _Rows) -> list[IntArray]:
    """The row with the most runs of each photo; of these, the longest."""
    of_photo: dict[str, IntArray] = {}
    for name, pairs in zip(rows.names, rows.runs, strict=True):
        photo = name.rpartition("_")[0]
        if len(pairs) > len(of_photo.get(photo, ())):
            of_photo[photo] = pairs
    return sorted(of_photo.values(), key=len, reverse=True)[:_ROWS]


def _agreement(rows: Sequence[IntArray], pixels: int) -> FloatArray:
    """How well masks agree with themselves a number of pixels further on: 1 for 0, about 0 where it is chance.

    Args:
        rows: start and length of runs.
        pixels: so many of each are looked at.

    Returns:
        float64 (pixels,): the autocorrelation of the masks as one long line; empty if there are none.
    """
    total = np.zeros(pixels)
    length = scipy.fft.next_fast_len(2 * pixels, real=True) if rows else 0
    for pairs in rows:
        starts = pairs[:, 0] - 1
        steps = np.zeros(pixels + 1)
        np.add.at(steps, np.clip(starts, 0, pixels), 1)
        np.add.at(steps, np.clip(starts + pairs[:, 1], 0, pixels), -1)
        line = np.cumsum(steps[:-1])
        spectrum = scipy.fft.rfft(line - line.mean(), length)
        total += scipy.fft.irfft(np.abs(spectrum) ** 2, length)[:pixels]
    return total / total[0] if pixels and total[0] > 0 else np.empty(0)


def _width(agreement: FloatArray) -> int | None:
    """The width of the masks: the lag, beyond single runs, at which they agree best. None if there is no such lag."""
    chance = np.flatnonzero(agreement < _ALIKE / 2)
    if not chance.size:
        return None
    width = int(chance[0] + agreement[chance[0] :].argmax())
    return width if agreement[width] >= _ALIKE else None


def _text(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
