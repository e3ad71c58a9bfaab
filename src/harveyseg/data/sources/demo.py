"""``data.source: demo``: scenes that the project draws itself; no network."""

from pathlib import Path

from harveyseg.data.demo import DemoParams, write_demo
from harveyseg.data.sources.provided import Provided


def provide(params: DemoParams, scratch: Path) -> Provided:
    """Draw the scenes into the empty folder ``scratch``."""
    write_demo(scratch, params)
    return Provided(scratch, params.model_dump())
