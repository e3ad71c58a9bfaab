"""How much of a trial is done while it runs, so that a study can tell the time left before its first trial ends."""

from collections.abc import Sequence

from harveyseg.tracking.client import Tracker
from harveyseg.tracking.query import EXPERIMENT, running_trainings


def share_done(tracker: Tracker, folds: Sequence[int], experiment: str, seconds: float) -> float | None:
    """The share of a trial's time that has passed, by the speed of the training that runs.

    Evaluation and post-processing, which come after the trainings and are short, are left out.

    Args:
        tracker: where the trainings show how far they are.
        folds: on which it trains, one after the other in this order.
        experiment: the name of the trial's DVC experiment.
        seconds: since the trial began.

    Returns:
        In (0, 1]; None while no training that has finished an epoch runs.
    """
    for name, training in running_trainings(tracker, EXPERIMENT, experiment).items():
        fold = int(name.rpartition("-")[2])
        later = len(folds) - 1 - folds.index(fold)
        return seconds / (seconds + training.seconds_left + later * training.seconds)
    return None
