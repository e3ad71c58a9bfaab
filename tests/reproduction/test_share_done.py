"""How much of a trial is done, against a training whose epochs take a second each."""

from itertools import product

import pytest

from harveyseg.reproduction.share_done import share_done
from harveyseg.tracking.client import Tracker
from harveyseg.tracking.mirror import mirror, show_running
from harveyseg.tracking.outputs import RunState
from helpers.records import START_MS, make_history, make_record


def test_the_share_of_a_trial_that_is_done(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    record = make_record(fold=2, experiment="study-a", parameters={"train.epochs": 10})
    monkeypatch.setattr("time.time", lambda: START_MS / 1000 + 4)  # just after the fourth epoch
    with show_running(tracker, record):
        assert share_done(tracker, [2], "study-a", 5) is None  # no epoch has ended
        mirror(tracker, RunState(record, "RUNNING", make_history(4)))
        # Six seconds are left of this fold, and ten of each that comes after it.
        shares = {
            (tuple(folds), seconds): share_done(tracker, folds, "study-a", seconds)
            for folds, seconds in product(([2], [2, 0], [0, 2], [1, 2, 0]), (4, 14))
        }
        assert share_done(tracker, [2], "study-b", 5) is None
        mirror(tracker, RunState(record, history=make_history(4)))
    assert shares == {
        ((2,), 4): pytest.approx(4 / 10),
        ((2,), 14): pytest.approx(14 / 20),
        ((2, 0), 4): pytest.approx(4 / 20),
        ((2, 0), 14): pytest.approx(14 / 30),
        ((0, 2), 4): pytest.approx(4 / 10),
        ((0, 2), 14): pytest.approx(14 / 20),
        ((1, 2, 0), 4): pytest.approx(4 / 20),
        ((1, 2, 0), 14): pytest.approx(14 / 30),
    }
    assert share_done(tracker, [2], "study-a", 20) is None  # it is finished
