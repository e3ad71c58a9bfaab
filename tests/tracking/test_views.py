"""The prepared views: written with the experiment, updated when they change, never over a user's own."""

import json
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from harveyseg.tracking.client import Tracker, TrackingParams, open_tracker
from harveyseg.tracking.views import VIEWS, experiment_views, outdated_views, study_view
from helpers.tracking import connect

PREFIX = "mlflow.sharedViewState."


def stored(tracker: Tracker) -> dict[str, str]:
    return dict(connect(tracker.uri).get_experiment(tracker.experiment_id).tags)


def test_views_are_written_with_the_experiment(tracker: Tracker) -> None:
    tags = stored(tracker)
    assert {view.key for view in VIEWS} == {name.removeprefix(PREFIX) for name in tags if name.startswith(PREFIX)}
    for view in VIEWS:
        content = json.loads(tags[PREFIX + view.key])
        # What MLflow 3.17 requires of a saved view.
        assert isinstance(content["name"], str)
        assert isinstance(content["createdAt"], int)
        assert json.loads(content["state"])["orderByKey"] == "metrics.`val/score`"


def test_only_what_is_older_is_replaced(tracker: Tracker, project: Path) -> None:
    tags = stored(tracker)
    scores, charts, folds = (PREFIX + view.key for view in VIEWS)
    newer = {**json.loads(tags[charts]), "updatedAt": 9_999_999_999_999, "name": "of a later version"}
    changes = {
        scores: json.dumps({**json.loads(tags[scores]), "name": "of an earlier version"}),
        charts: json.dumps(newer),
        folds: "damaged",
        f"{PREFIX}1795822734843qujppl97": '{"name": "a user\'s own"}',
        "mlflow.note.content": "a user's text",
    }
    for name, value in changes.items():
        connect(tracker.uri).set_experiment_tag(tracker.experiment_id, name, value)
    after = stored(open_tracker(TrackingParams(), project))
    assert after == {**tags, **changes, scores: tags[scores], folds: tags[folds]}


def test_a_study_has_a_view_of_its_own(tracker: Tracker) -> None:
    assert experiment_views(tracker.experiment_tags) == list(VIEWS)
    tracker.prepare_views([study_view("epochs")])
    view = experiment_views(stored(tracker))[-1]
    assert (view.key, view.name) == ("harveyseg-study-epochs", "Study epochs")
    assert view.state["searchFilter"] == "tags.`study.epochs` LIKE '%'"
    assert not outdated_views(stored(tracker), [*VIEWS, view])


def test_who_may_only_read_can_still_use_mlflow(
    tracker: Tracker, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connect(tracker.uri).set_experiment_tag(tracker.experiment_id, PREFIX + VIEWS[0].key, "old")

    def refuse(*arguments: object) -> None:
        raise MlflowException("error code 403: Permission denied")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    with caplog.at_level("INFO"):
        assert open_tracker(TrackingParams(), project, required=True).alive
    assert "views are not written" in caplog.text
