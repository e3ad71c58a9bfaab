"""Stage ``compare``: bring MLflow up to the workspace, then make the comparison table from MLflow."""

from pathlib import Path

from harveyseg.config.settings import section
from harveyseg.pipeline.stage import DataDir, ParamsFile, ReportsDir, run
from harveyseg.tracking.client import TrackingParams, open_tracker, sync
from harveyseg.tracking.table import comparison, workspace, write_table


def main(
    params: ParamsFile = Path("params.yaml"),
    data: DataDir = Path("data"),
    reports: ReportsDir = Path("data/reports"),
) -> None:
    """Write REPORTS/comparison.csv, comparison.md and costs.csv, and print the table."""
    outputs = workspace(params, data)
    tracker = open_tracker(section(params, "tracking", TrackingParams), required=True)
    for line in sync(tracker, outputs):
        print(f"sync: {line}")
    table = comparison(tracker, [output.record for output in outputs])
    write_table(table, reports)
    print((reports / "comparison.md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    run(main)
