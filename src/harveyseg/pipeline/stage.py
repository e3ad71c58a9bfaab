"""Running a stage script: its options, its signals, its errors, and the line that it ends with."""

import functools
import re
import signal
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NamedTuple

import psutil  # type: ignore[import-untyped]
import typer

from harveyseg.errors import HarveysegError, report_errors
from harveyseg.logs import configure_logging
from harveyseg.progress import format_duration

ModelName = Annotated[str, typer.Option(help="Key in `models` of params.yaml.")]
FoldNumber = Annotated[int, typer.Option(help="The fold that is held out.")]
ParamsFile = Annotated[Path, typer.Option(help="Settings.")]
ScriptsDir = Annotated[Path, typer.Option(help="Folder of the stages' scripts.")]
DataDir = Annotated[Path, typer.Option(help="Folder of all stages' outputs.")]
RawDir = Annotated[Path, typer.Option(help="Folder of the verified photos and masks.")]
CacheDir = Annotated[Path, typer.Option(help="Folder of the resize cache.")]
FoldsFile = Annotated[Path, typer.Option(help="The split: the fold of each training photo.")]
FiguresDir = Annotated[Path, typer.Option(help="Folder of the figures of the data.")]
CodeDir = Annotated[Path, typer.Option(help="Folder of the code digests and of the models' checked settings.")]
ModelsDir = Annotated[Path, typer.Option(help="Folder of the trained models.")]
PredictionsDir = Annotated[Path, typer.Option(help="Folder of the models' predictions.")]
EnsembleDir = Annotated[Path, typer.Option(help="Folder of the ensemble.")]
PostprocessDir = Annotated[Path, typer.Option(help="Folder of the post-processing rules and their metrics.")]
SubmissionDir = Annotated[Path, typer.Option(help="Folder of the submissions.")]
ReportsDir = Annotated[Path, typer.Option(help="Folder of the comparison table.")]


class Made(NamedTuple):
    """What a stage has made: it ends with a line that says so."""

    what: str
    """In words, with the number that matters most."""
    where: Path
    """The file or folder."""


REQUIREMENTS = "requirements.txt"
"""Where a repository without ``src`` says which version of the package it runs; DVC watches it."""


def require_version(root: Path) -> None:
    """Refuse another version of the package than the one that DVC knows: its results would count as the same.

    Args:
        root: the project's root; where it has ``src``, its own code is digested instead.

    Raises:
        HarveysegError: when ``requirements.txt`` names another version.
    """
    path = root / REQUIREMENTS
    if (root / "src").is_dir() or not path.is_file():
        return
    named = re.search(r"^harveyseg==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    installed = version("harveyseg")
    if named and named[1] != installed:
        raise HarveysegError(
            f"{path} names harveyseg {named[1]}, but {installed} is installed, whose results may differ. Install "
            f"harveyseg {named[1]}, or write {installed} there, and the pipeline runs again where its code differs."
        )


def _closed(main: Callable[..., Made]) -> Callable[..., None]:
    """The same command, which ends with a line on what it made."""

    @functools.wraps(main)
    def command(**options: Any) -> None:
        made = main(**options)
        stage = Path(sys.argv[0]).stem.replace("_", "-")
        print(f"{stage}: {made.what} in {made.where} ({format_duration(_process_seconds())})", flush=True)

    return command


def _process_seconds() -> float:
    """Since the process began: most of a short stage's time goes into imports."""
    started = psutil.Process().create_time()
    if sys.platform == "linux":  # which counts from the boot, and knows the time of the boot to a second only
        return time.clock_gettime(time.CLOCK_BOOTTIME) - float(started - psutil.boot_time())
    return time.time() - float(started)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(f"signal {signal.Signals(signum).name}")


def run(main: Callable[..., Made]) -> None:
    """Run a stage's command: parse the options, and print what it made, where, and how long that took.

    Errors are reported by :func:`harveyseg.errors.report_errors`. SIGTERM is turned into ``KeyboardInterrupt``, so that
    a training that is asked to stop marks its run as KILLED.
    """
    signal.signal(signal.SIGTERM, _terminate)
    configure_logging()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(_closed(main))
    with report_errors():
        require_version(Path.cwd())
        app()
