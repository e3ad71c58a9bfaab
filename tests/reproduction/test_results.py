"""RESULTS.md from a real MLflow and from the exported runs: the same file."""

import json
import math
import re
from pathlib import Path

import pytest

from harveyseg.errors import HarveysegError
from harveyseg.reproduction.export import StudyRuns, export_study_runs, import_study_runs, load_study_runs
from harveyseg.reproduction.results import write_results
from harveyseg.reproduction.studies import StudyRecipe
from harveyseg.tracking.client import Tracker
from helpers.studies import log_trial


def test_the_file_from_mlflow_and_from_an_export(tracker: Tracker, project: Path, recipe: StudyRecipe) -> None:
    for seed in (0, 1):
        log_trial(tracker, project, recipe, "softmax", "on", seed, (0.70, 0.70 + seed / 100))
        log_trial(tracker, project, recipe, "softmax", "off", seed, (0.59, 0.59))
    log_trial(tracker, project, recipe, "epochs", "35", 0, (0.6, 0.6))
    out, figures = project / "RESULTS.md", project / "docs"
    figure = figures / "study-epochs.png"
    runs = load_study_runs(recipe, tracker)
    text = write_results([runs], out, figures)
    assert out.read_text() == text
    cells = [re.split(r" *\| *", line) for line in text.splitlines() if line.startswith("|")]
    settings = {row[1]: row[2] for row in cells if len(row) == 4}
    assert settings["training runs"].startswith("10, the last of 2026-09-2")
    assert settings["folds"] == "3, held out: 0, 1"
    assert settings["photo size (the report: 256)"] == "128"
    assert settings["computed with"] == "cpu fp32"
    (softmax,) = (row for row in cells if row[1].startswith("Trial 4"))
    # Deviation 0.0050 / sqrt(2) of two seeds, pooled with that of two others, 0: two degrees of freedom, t = 4.303.
    margin = 4.303 * 0.005 / math.sqrt(2) / math.sqrt(2)
    assert softmax[2:6] == ["on 0.7025; off 0.5900", "+0.1125", f"{margin:.4f}", "**confirmed**"]
    assert "Not run: `harveyseg study channels`." in text
    assert "![Losses of each epoch](docs/study-epochs.png)" in text
    assert figure.exists()

    for path in (figure, figures / "study-claims.png", figures / "study-softmax.png", project / "studies.jsonl", out):
        before = path.read_bytes() if path.exists() else None
        path.write_text("of mine")
        with pytest.raises(HarveysegError, match=f"{path.name}: exists already, and harveyseg did not write it"):
            (export_study_runs(runs, path) if path.suffix == ".jsonl" else write_results([runs], out, figures))
        assert path.read_text() == "of mine"
        path.unlink() if before is None else path.write_bytes(before)
    assert write_results([runs], out, figures) == text  # its own files are replaced
    export_study_runs(runs, project / "studies.jsonl")
    export_study_runs(runs, project / "studies.jsonl")
    again = project / "again" / "RESULTS.md"
    write_results([import_study_runs(project / "studies.jsonl")], again, again.parent / "docs")
    assert again.read_text() == text
    drawn = {path.name: path.read_bytes() for path in figures.iterdir()}
    assert drawn.keys() == {"study-epochs.png", "study-claims.png", "study-softmax.png"}
    assert {path.name: path.read_bytes() for path in (again.parent / "docs").iterdir()} == drawn


def test_several_photo_sizes_stand_side_by_side(tracker: Tracker, project: Path, recipe: StudyRecipe) -> None:
    for seed in range(3):
        for variant, score in (("on", 0.70), ("off", 0.59)):
            log_trial(tracker, project, recipe, "softmax", variant, seed, (score, score + seed / 100))
        log_trial(tracker, project, recipe, "dropout", "0.1", seed, (0.62, 0.62))
        log_trial(tracker, project, recipe, "dropout", "0.0", seed, (0.64, 0.64))
    small = load_study_runs(recipe, tracker)
    # The same runs as if of photos twice as large, where nothing but one seed of "on" and "off" has run.
    params = json.loads(json.dumps(recipe.params))
    params["resize-cache"]["size"] = 256
    single = tuple(run for run in small.runs if run.seed == 0 and "softmax" in run.studies)
    large = StudyRuns(StudyRecipe(params), small.data, single)
    for order in ([small, large], [large, small]):
        text = write_results(order, project / "RESULTS.md", project / "docs")
        cells = [re.split(r" *\| *", line) for line in text.splitlines() if line.startswith("|")]
        assert ["", "setting", "128 pixels", "256 pixels", ""] in cells
        assert ["", "training runs", "24, the last of 2026-09-21", "4, the last of 2026-09-21", ""] in cells
        (claim,) = (row for row in cells if row[1].startswith("Trial 4:"))
        assert claim[5:7] == ["**confirmed**", "128"]  # three seeds there, one at 256
        assert text.count("\nData: ") == 3  # softmax twice, dropout once


def test_a_claim_that_rests_on_nothing_names_no_size(tracker: Tracker, project: Path, recipe: StudyRecipe) -> None:
    log_trial(tracker, project, recipe, "dropout", "0.1", 0, (0.62, 0.62))
    text = write_results([load_study_runs(recipe, tracker)], project / "RESULTS.md", project / "docs")
    (channels,) = (line for line in text.splitlines() if line.startswith("| Trial 1:"))
    assert re.split(r" *\| *", channels)[2:8] == [
        "",
        "",
        "",
        "**undecided**",
        "",
        "missing: `harveyseg study channels`",
    ]


def test_nothing_is_overwritten_when_nothing_has_run(tracker: Tracker, project: Path, recipe: StudyRecipe) -> None:
    (project / "RESULTS.md").write_text("Made by `harveyseg results`: what was published")
    with pytest.raises(HarveysegError, match=r"no finished run of any study .*`harveyseg study softmax`"):
        write_results([load_study_runs(recipe, tracker)], project / "RESULTS.md", project / "docs")
    assert (project / "RESULTS.md").read_text() == "Made by `harveyseg results`: what was published"
