"""The images of a training that still runs."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from harveyseg.classes import HARVEY25
from harveyseg.tracking.client import Tracker
from harveyseg.tracking.mirror import mirror, show_running
from harveyseg.tracking.outputs import RunState
from harveyseg.tracking.preview import Previews, draw_panels
from helpers.records import make_history, make_record
from helpers.tracking import all_mlflow_runs, connect, logged_steps

PHOTO = np.full((8, 12, 3), (10, 20, 30), np.uint8)
MASK = np.full((8, 12), 5, np.uint8)
UNLABELLED = np.full((8, 12), 255, np.uint8)
PANELS = [(PHOTO, MASK, MASK), (PHOTO, UNLABELLED, MASK)]


def test_an_image_shows_photo_mask_and_prediction_side_by_side() -> None:
    image = np.asarray(draw_panels(PANELS, HARVEY25))
    assert image.shape == (2 * 8 + 4, 3 * 12 + 8, 3)
    colour = HARVEY25.palette[5].tolist()
    for (row, column), expected in {
        (0, 0): [10, 20, 30],
        (0, 16): colour,
        (0, 43): colour,
        (19, 16): [255, 255, 255],  # without a label
        (19, 43): colour,
        (9, 0): [255, 255, 255],  # between the rows
    }.items():
        assert image[row, column].tolist() == expected
    photo, mask = (pixels.repeat(100, 0).repeat(100, 1) for pixels in (PHOTO, MASK))
    assert draw_panels([(photo, mask, mask)], HARVEY25).size == (3 * 256 + 8, 171)


def test_images_come_while_the_training_runs_in_growing_intervals(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("harveyseg.tracking.preview.time", SimpleNamespace(monotonic=lambda: clock[0]))
    shown = []
    with show_running(tracker, make_record()) as run_id:
        previews = Previews(tracker, run_id, HARVEY25)
        for epoch in range(1, 101):
            if previews.due:
                previews.send(PANELS, epoch)
                shown.append(epoch)
            clock[0] += 20
        (run,) = all_mlflow_runs(tracker)
        assert run.info.status == "RUNNING"
        names = [item.path for item in connect(tracker.uri).list_artifacts(run.info.run_id, "images")]
        mirror(tracker, RunState(make_record(uid=run.data.tags["harveyseg.uid"])))
    assert shown[:4] == [1, 3, 5, 7]
    assert shown[-1] - shown[-2] > 5
    assert sum(name.endswith(".png") for name in names) == len(shown) < 30


def test_a_lost_store_costs_one_warning_and_no_curve(
    tracker: Tracker, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = make_record()
    with show_running(tracker, record) as run_id:
        shutil.rmtree(project / "mlflow-artifacts", ignore_errors=True)
        (project / "mlflow-artifacts").write_text("a file where a folder should be")
        previews = Previews(tracker, run_id, HARVEY25)
        previews.send(PANELS, 1)
        assert caplog.text.count("artifact store") == 1
        assert not previews.due
        mirror(tracker, RunState(record, "RUNNING", make_history(2)))
        assert logged_steps(tracker, run_id) == [1, 2]
        mirror(tracker, RunState(record, history=make_history(2)))
