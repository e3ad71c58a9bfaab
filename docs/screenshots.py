"""Write the pictures of pages in the documentation, from a finished project: `make screenshots`.

A picture is one entry of SHOTS. Look at each one before it is committed: a page may be drawn and still be wrong. The
view of a study is there after `harveyseg study NAME`.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from harveyseg.errors import HarveysegError, report_errors
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.query import find_all_runs
from helpers.browser import find_chromium, open_page
from helpers.ports import free_port

DOCS = Path(__file__).resolve().parent
_PATIENCE_MS = 120_000


@dataclass(frozen=True)
class Site:
    """What a picture can be taken of."""

    project: Path
    """The folder of a finished project."""
    views: dict[str, str]
    """The addresses of MLflow's prepared views, by the names that `harveyseg ui` prints."""


def best_run(site: Site) -> str:
    """The address of the training with the highest score."""
    tracker = open_tracker(TrackingParams(), site.project, required=True)
    trained = [run for run in find_all_runs(tracker) if run.tags["harveyseg.kind"] == "train"]
    best = max(trained, key=lambda run: run.metrics.get("val/score", 0.0))
    return f"{site.views['Scores'].partition('?')[0]}/{best.run_id}?workflowType=machine_learning"


def dvc_charts(site: Site) -> str:
    """The address of the page that `dvc plots show` writes."""
    subprocess.run(
        [sys.executable, "-m", "dvc", "plots", "show"], cwd=site.project, stdout=subprocess.DEVNULL, check=True
    )
    return (site.project / "dvc_plots" / "index.html").as_uri()


def summary(site: Site) -> str:
    """The address of the page that `harveyseg summary` writes."""
    command = [sys.executable, "-c", "from harveyseg.cli import app; app()", "summary"]
    subprocess.run(command, cwd=site.project, stdout=subprocess.DEVNULL, check=True)
    return (site.project / "summary.html").as_uri()


def champion(site: Site) -> str:
    """The address of the registered model's page, after `harveyseg champion`."""
    command = [sys.executable, "-c", "from harveyseg.cli import app; app()", "champion"]
    subprocess.run([*command, "--allow-dirty", "--allow-demo"], cwd=site.project, stdout=subprocess.DEVNULL, check=True)
    return f"{site.views['Scores'].partition('#')[0]}#/models/harveyseg?workflowType=machine_learning"


def study(site: Site) -> str | None:
    """The address of the view of the first study; None where there is none."""
    return next((address for name, address in site.views.items() if name.startswith("Study ")), None)


@dataclass(frozen=True)
class Shot:
    """A picture of a page."""

    name: str
    """The file, without its ending."""
    address: Callable[[Site], str | None]
    """None where the project has no such page."""
    ready: str
    """A CSS selector of what must have been drawn."""
    width: int
    height: int
    click: str | None = None
    """A CSS selector of what to press before, e.g. to unfold a text."""


CHART = ".js-plotly-plot"

SHOTS = (
    Shot("mlflow-scores", lambda site: site.views["Scores"], "text=all_empty", 1900, 640),
    Shot("mlflow-charts", lambda site: site.views["Charts"], f":nth-match({CHART}, 7)", 1900, 1900),
    Shot("mlflow-folds", lambda site: site.views["Folds"], "text=Group:", 1900, 640),
    Shot("mlflow-study", study, "text=Group:", 1900, 640),
    Shot("mlflow-run", best_run, "img[src*=get-artifact]", 1600, 1100, click="text=Show more"),
    Shot("mlflow-champion", champion, "text=Data and licence", 1400, 1700),
    Shot("dvc-charts", dvc_charts, ":nth-match(svg.marks, 4)", 1500, 1250),
    Shot("summary", summary, "body[data-ready=yes]", 1280, 1010),
    Shot("summary-photos", summary, ".picture.found", 1280, 900, click="#worst-table button[data-picture]"),
)


def main(
    names: Annotated[list[str] | None, typer.Argument(help="The pictures; all if none is given.")] = None,
    project: Annotated[Path, typer.Option(help="A finished project.")] = Path(),
    out: Annotated[Path, typer.Option(help="Where the pictures go.")] = DOCS,
) -> None:
    """Start MLflow's UI on a finished project, and take the pictures."""
    if find_chromium() is None:
        raise HarveysegError("no Chromium on this machine. Install it, e.g. `apt-get install chromium`.")
    with _serving_ui(project) as views:
        site = Site(project.resolve(), views)
        for shot in SHOTS:
            if not names or shot.name in names:
                path = out / f"{shot.name}.png"
                address = shot.address(site)
                if address is None:
                    print(f"{path}: not taken, the project has no such page", flush=True)
                    continue
                _take(shot, address, path)
                print(path, flush=True)


def _take(shot: Shot, address: str, path: Path) -> None:
    with open_page(shot.width, shot.height) as page:
        # MLflow opens a panel at the first visit, which a user closes once.
        page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
        page.goto(address)
        if shot.click is not None:
            page.locator(shot.click).first.click(timeout=_PATIENCE_MS)
        page.locator(shot.ready).first.wait_for(timeout=_PATIENCE_MS)
        page.wait_for_timeout(2500)  # what is drawn last, and animations
        page.screenshot(path=path)


@contextmanager
def _serving_ui(project: Path) -> Iterator[dict[str, str]]:
    """`harveyseg ui`; yields the addresses that it prints."""
    command = [sys.executable, "-c", "from harveyseg.cli import app; app()", "ui", "--no-open"]
    command += ["--port", str(free_port())]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            printed = ""
            for line in process.stdout:
                printed += line
                if line.startswith("Ctrl-C"):
                    break
            yield dict(re.findall(r"^  ([\w ]+): (http\S+)$", printed, re.MULTILINE))
        finally:
            process.terminate()


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    with report_errors():
        app()
