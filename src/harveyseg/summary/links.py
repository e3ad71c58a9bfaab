"""Addresses of the runs in MLflow's UI."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harveyseg.config.settings import section
from harveyseg.errors import HarveysegError
from harveyseg.tracking.client import TrackingParams, open_tracker, tracking_uri
from harveyseg.tracking.database import database_path
from harveyseg.tracking.faults import public_address
from harveyseg.tracking.outputs import RunOutputs
from harveyseg.tracking.query import find_runs

_LOCAL = "http://127.0.0.1:5000"
"""Where `harveyseg ui` serves a database of the project's own."""


@dataclass(frozen=True)
class Links:
    """The pages of runs in MLflow."""

    addresses: Mapping[str, str] = field(default_factory=dict)
    """By the run's uid."""
    note: str = ""
    """What to do for the links to work, or why there are none."""


def find_links(params: Path, root: Path, outputs: Sequence[RunOutputs]) -> Links:
    """Ask MLflow for the runs of the workspace; without MLflow there are no links, which is no error.

    Args:
        params: params.yaml.
        root: the project's root.
        outputs: the runs.
    """
    uri = tracking_uri(root)
    database = database_path(uri)
    if database is not None and not database.exists():
        return Links(note=f"There are no links, since {database.name} is absent: `harveyseg sync` makes it.")
    tracker = open_tracker(section(params, "tracking", TrackingParams), root)
    try:
        runs = find_runs(tracker, outputs)
    except HarveysegError:
        return Links(note=f"There are no links, since MLflow at {public_address(uri)} cannot be read.")
    served = uri.startswith(("http://", "https://"))
    base = f"{public_address(uri) if served else _LOCAL}/#/experiments/{tracker.experiment_id}/runs"
    addresses = {
        output.record.uid: f"{base}/{run.run_id}"
        for output, run in zip(outputs, runs, strict=True)
        if run is not None and run.run_id is not None
    }
    missing = len(outputs) - len(addresses)
    lacks = f" MLflow lacks {missing} of {len(outputs)} runs: `harveyseg sync` sends them." if missing else ""
    return Links(addresses, ("" if served else "The links work while `harveyseg ui` runs.") + lacks)
