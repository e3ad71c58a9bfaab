"""Stage ``compare``: mirror the workspace into MLflow, then make the comparison table from MLflow."""

from pathlib import Path

from harveyseg.config.settings import section
from harveyseg.pipeline.stage import DataDir, ParamsFile, ReportsDir, run
from harveyseg.tracking.baseline import baseline_state
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.mirror import mirror_all
from harveyseg.tracking.outputs import list_workspace
from harveyseg.tracking.table import comparison_table, write_comparison


def main(
    params: ParamsFile = Path("params.yaml"),
    data: DataDir = Path("data"),
    reports: ReportsDir = Path("data/reports"),
) -> None:
    """Write REPORTS/comparison.csv, comparison.md and costs.csv, and print the table."""
    outputs = list_workspace(params, data)
    tracker = open_tracker(section(params, "tracking", TrackingParams), required=True)
    states = [*(output.state() for output in outputs), baseline_state(outputs)]
    for line in mirror_all(tracker, [state for state in states if state is not None]):
        print(f"sync: {line}")
    write_comparison(comparison_table(tracker, outputs), reports)
    print((reports / "comparison.md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    run(main)
