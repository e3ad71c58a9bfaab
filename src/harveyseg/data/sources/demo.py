"""``data.source: demo``: scenes that the project draws itself; no network."""

from pathlib import Path

from harveyseg.data.demo import DemoParams, write_demo
from harveyseg.data.sources.source_data import SourceData


def provide_demo(params: DemoParams, scratch: Path) -> SourceData:
    """Draw the scenes into the empty folder ``scratch``."""
    overlaps = write_demo(scratch, params)
    return SourceData(scratch, params.model_dump(), overlaps=overlaps)
