"""The run of submitting nothing: what every other score in MLflow's tables and charts is to be compared with."""

from collections.abc import Sequence

from harveyseg.files import digest
from harveyseg.record import ALL_EMPTY, POOLED, RunRecord
from harveyseg.tracking.outputs import RunOutputs, RunState

_UID_LENGTH = 32


def baseline_state(outputs: Sequence[RunOutputs]) -> RunState | None:
    """The scores of a submission without a single pixel, on the photos of these runs.

    All pipelines with the same photos and folds share one such run.

    Args:
        outputs: the runs of a workspace.

    Returns:
        None until a model is post-processed, as its files hold these scores.

    Raises:
        HarveysegError: when a file of the first model is damaged, or not its own.
    """
    trained = next((output for output in outputs if output.record.kind == "train"), None)
    scores = {} if trained is None else trained.scores()
    if trained is None or f"{POOLED}val/all_empty_score" not in scores:
        return None
    metrics = {"val/gain_over_empty": 0.0}
    for part in ("val", "test"):
        if (score := scores.get(f"{POOLED}{part}/all_empty_score")) is not None:
            metrics |= {f"{part}/score": score, f"{part}/argmax_score": score}
    source = trained.record
    uid = digest({"baseline": metrics, "data": source.data_hash, "split": source.split_hash})
    record = RunRecord(
        uid=uid[:_UID_LENGTH],
        kind="baseline",
        model=ALL_EMPTY,
        fold=None,
        stage_key=uid,
        parameters={},
        git_commit=None,
        git_dirty=None,
        data_source=source.data_source,
        data_hash=source.data_hash,
        split_hash=source.split_hash,
        device="none",
        environment={},
        started_ms=source.started_ms,
        ended_ms=source.started_ms,
    )
    return RunState(record, metrics=metrics)
