"""Stage ``compare``: mirror the workspace into MLflow, then make the comparison table from MLflow."""

from pathlib import Path

import harveyseg.pipeline.start  # noqa: F401 - before all that is slow to import
from harveyseg.config.settings import section
from harveyseg.errors import counted
from harveyseg.pipeline.stage import DataDir, Made, ParamsFile, ReportsDir, run
from harveyseg.tracking.baseline import baseline_state
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.mirror import mirror_all
from harveyseg.tracking.outputs import list_workspace
from harveyseg.tracking.table import comparison_table, short_table, write_comparison


def main(
    params: ParamsFile = Path("params.yaml"),
    data: DataDir = Path("data"),
    reports: ReportsDir = Path("data/reports"),
) -> Made:
    """Write REPORTS/comparison.csv, comparison.md and costs.csv, and print the most important columns."""
    outputs = list_workspace(params, data)
    tracker = open_tracker(section(params, "tracking", TrackingParams), required=True)
    states = [*(output.state() for output in outputs), baseline_state(outputs)]
    for line in mirror_all(tracker, [state for state in states if state is not None]):
        print(f"sync: {line}")
    table = comparison_table(tracker, outputs)
    write_comparison(table, reports)
    print(short_table(table), end="")
    return Made(f"table of {counted(len(table), 'row')}", reports / "comparison.md")


if __name__ == "__main__":
    run(main)
