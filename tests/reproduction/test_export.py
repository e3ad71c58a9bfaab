"""The exported runs of studies: nothing is lost, and nothing about the machine is told."""

import json
import lzma
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from harveyseg.errors import HarveysegError
from harveyseg.reproduction.export import (
    LATENCY_EXPERIMENT,
    Latency,
    StudyRuns,
    export_study_runs,
    import_runs_of,
    import_study_runs,
    load_study_runs,
    log_latency,
    merge_study_runs,
)
from harveyseg.reproduction.studies import StudyRecipe
from harveyseg.tracking.client import Tracker, TrackingParams, open_tracker
from helpers.studies import make_variant, with_curves


@pytest.fixture
def runs(recipe: StudyRecipe) -> StudyRuns:
    curves = {"val_loss": {0: 3.0, 1: 0.1 + 0.2}}
    seeds = with_curves(make_variant("on", 2 / 3, 0.7), curves).seeds
    made = [folds[0].model_copy(update={"studies": {"softmax": "on"}}) for folds in seeds]
    return StudyRuns(recipe, {"data/photos/05_grass": 40.0}, tuple(made))


@pytest.mark.parametrize("name", ["studies.jsonl", "studies.jsonl.xz"])
def test_what_is_read_is_what_was_written(runs: StudyRuns, tmp_path: Path, name: str) -> None:
    export_study_runs(runs, tmp_path / name)
    export_study_runs(runs, tmp_path / name)  # its own file is replaced
    read = import_study_runs(tmp_path / name)
    assert (read.runs, read.data) == (runs.runs, runs.data)
    for section in ("models", "train", "resize-cache", "folds"):
        assert read.recipe.params[section] == runs.recipe.params[section]
    if name.endswith(".xz"):
        text = subprocess.run(["xz", "-dc", tmp_path / name], capture_output=True, check=True, text=True).stdout
    else:
        text = (tmp_path / name).read_text()
    assert len(text.splitlines()) == 1 + 2


def test_another_compressed_file_is_neither_read_nor_replaced(runs: StudyRuns, tmp_path: Path) -> None:
    path = tmp_path / "studies.jsonl.xz"
    for content in (b"not compressed", lzma.compress(b"something else")):
        path.write_bytes(content)
        with pytest.raises(HarveysegError, match=r"studies\.jsonl\.xz: exists already"):
            export_study_runs(runs, path)
        with pytest.raises(HarveysegError, match=r"studies\.jsonl\.xz: not an export"):
            import_study_runs(path)
        assert path.read_bytes() == content


def test_the_newest_latency_goes_along(tracker: Tracker, project: Path, recipe: StudyRecipe) -> None:
    assert load_study_runs(recipe, tracker).latency == {}
    measured = open_tracker(TrackingParams(experiment=LATENCY_EXPERIMENT), project, required=True)
    for ratio in (1.5, 1.6):
        network = Latency(milliseconds=90 * ratio, ratio=ratio, low=ratio - 0.1, high=ratio + 0.2)
        log_latency(measured, {"mobilenet_v2": network}, {"size": 256})
    client = MlflowClient(tracking_uri=tracker.uri)
    (found, _) = client.search_runs([measured.experiment_id])
    assert (found.info.status, found.data.params["size"]) == ("FINISHED", "256")
    runs = load_study_runs(recipe, tracker)
    assert runs.latency == {"mobilenet_v2": network}
    assert runs.runs == ()
    export_study_runs(runs, project / "studies.jsonl")
    assert import_study_runs(project / "studies.jsonl").latency == runs.latency


def test_no_path_or_address_of_the_photos_is_exported(runs: StudyRuns, tmp_path: Path) -> None:
    params = json.loads(json.dumps(runs.recipe.params))
    params["data"] |= {"path": "/home/ana/harvey", "url": "https://store/photos?signature=3f0c"}
    params["split"]["groups"] = "/home/ana/overlap.csv:strict"
    export_study_runs(replace(runs, recipe=StudyRecipe(params)), tmp_path / "studies.jsonl")
    text = (tmp_path / "studies.jsonl").read_text()
    params["train"]["encoder_weights"] = "/home/ana/resnet.pth"
    params["data"]["classes"] = "/home/ana/classes.yaml"
    params["tracking"]["uri"] = "http://ana:secret@mlflow"
    export_study_runs(replace(runs, recipe=StudyRecipe(params)), tmp_path / "studies.jsonl")
    text += (tmp_path / "studies.jsonl").read_text()
    assert "ana" not in text
    assert "secret" not in text
    assert "signature" not in text
    assert import_study_runs(tmp_path / "studies.jsonl").recipe.params["data"]["path"] == "harvey"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", r"line 1: Invalid JSON"),
        ("{}\n", r"line 1: recipe: Field required"),
        ("PK\x03", r"line 1: Invalid JSON"),
        ('{"recipe": {"train": {}}, "data": {}, "latency": {}, "runs": 0}\n', r"the section 'data' is missing"),
    ],
)
def test_another_file_is_refused(content: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "studies.jsonl").write_text(content)
    with pytest.raises(HarveysegError, match=rf"studies\.jsonl: not an export of study runs \({why}"):
        import_study_runs(tmp_path / "studies.jsonl")
    with pytest.raises(HarveysegError, match=r"absent\.jsonl: no such file\. `harveyseg results --export FILE`"):
        import_study_runs(tmp_path / "absent.jsonl")


def test_a_file_that_lost_lines_is_refused(runs: StudyRuns, tmp_path: Path) -> None:
    path = tmp_path / "studies.jsonl"
    export_study_runs(runs, path)
    header, first, second = path.read_text().splitlines()
    path.write_text(f"{header}\n{first}\n")
    with pytest.raises(HarveysegError, match=r"studies\.jsonl: .*it has 1 runs, its first line says 2"):
        import_study_runs(path)
    path.write_text(f"{header}\n{first}\n{second[:-20]}\n")
    with pytest.raises(HarveysegError, match=r"studies\.jsonl: .*line 3: Invalid JSON"):
        import_study_runs(path)
    no_fold = json.dumps(json.loads(second) | {"fold": None})
    path.write_text(f"{header}\n{first}\n{no_fold}\n")
    with pytest.raises(HarveysegError, match=r"studies\.jsonl: .*line 3: fold: Input should be a valid integer"):
        import_study_runs(path)
    packed = tmp_path / "studies.jsonl.xz"
    export_study_runs(runs, packed)
    packed.write_bytes(packed.read_bytes()[:-30])
    with pytest.raises(HarveysegError, match=r"studies\.jsonl\.xz: not an export"):
        import_study_runs(packed)


def elsewhere(recipe: StudyRecipe, section: str = "train", **changes: object) -> StudyRecipe:
    """The recipe on another machine: files lie in other folders, MLflow is another one, and settings may differ."""
    params = json.loads(json.dumps(recipe.params))
    params["data"] |= {"path": f"/mnt/{Path(params['data']['path']).name}", "inputs": "/mnt/inputs", "url": "s3://b/p"}
    params["tracking"] = {"uri": "http://ana:secret@127.0.0.1:9"}
    params[section] |= changes
    return StudyRecipe(params)


def test_runs_of_two_machines_become_one_recipes(runs: StudyRuns, recipe: StudyRecipe) -> None:
    first, second = (
        run.model_copy(update={"started_ms": started}) for run, started in zip(runs.runs, (2, 1), strict=True)
    )
    other = elsewhere(recipe, "resize-cache", size=512)
    later = first.model_copy(update={"studies": {"dropout": "0.1"}})  # exported after another study had run
    parts = {
        "MLflow": replace(runs, runs=(first,)),
        # The same number, written as another type.
        "a.jsonl": replace(
            runs,
            recipe=elsewhere(recipe, lr=recipe.params["train"]["lr"] * 1.0, seed=float(recipe.params["train"]["seed"])),
            runs=(second, later),
            data={"data/photos/01_x": 1.0},
        ),
        "b.jsonl": replace(runs, recipe=other, runs=(second,)),
    }
    both, alone = merge_study_runs(parts)
    assert both.recipe == recipe
    assert [run.uid for run in both.runs] == [second.uid, first.uid]  # the older one first, each once
    assert both.runs[1].studies == {"softmax": "on", "dropout": "0.1"}
    assert both.data == {"data/photos/05_grass": 40.0, "data/photos/01_x": 1.0}
    assert (alone.recipe, alone.runs) == (other, (second,))


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("train", "lr", 0.5), ("data", "score_size", None), ("data", "classes", "harvey26"), ("split", "seed", 7)],
)
def test_recipes_that_differ_in_any_setting_are_no_one_recipe(
    runs: StudyRuns, recipe: StudyRecipe, tmp_path: Path, section: str, name: str, value: object
) -> None:
    path = tmp_path / "studies.jsonl"
    export_study_runs(replace(runs, recipe=elsewhere(recipe)), path)
    assert import_runs_of(recipe, path).runs == runs.runs
    other = elsewhere(recipe, section, **{name: value})
    export_study_runs(replace(runs, recipe=other), path)
    why = rf"studies\.jsonl: .* another recipe than params\.yaml, which differs in {section}\.{name}\. "
    with pytest.raises(HarveysegError, match=why):
        import_runs_of(recipe, path)
    with pytest.raises(HarveysegError, match=rf"b: its recipe differs from that of a in {section}\.{name}, but not in"):
        merge_study_runs({"a": runs, "b": replace(runs, recipe=other)})
    new = elsewhere(recipe, section, **{name: value, "a_setting_of_tomorrow": None})
    export_study_runs(replace(runs, recipe=new), path)
    with pytest.raises(HarveysegError, match=rf"differs in {section}\.{name} and 1 more\. "):
        import_runs_of(recipe, path)


@pytest.mark.parametrize("changed", ["split_hash", "data_hash"])
def test_a_study_on_other_photos_is_not_mixed_in(runs: StudyRuns, recipe: StudyRecipe, changed: str) -> None:
    first, second = runs.runs
    parts = {
        "a.jsonl": replace(runs, runs=(first,)),
        "b.jsonl": replace(runs, recipe=elsewhere(recipe), runs=(second.model_copy(update={changed: "f" * 64}),)),
    }
    with pytest.raises(
        HarveysegError, match=r"b\.jsonl: its study softmax ran on other photos.* than that of a\.jsonl"
    ):
        merge_study_runs(parts)


def test_two_runs_of_one_id_are_refused(runs: StudyRuns) -> None:
    first, second = runs.runs
    twin = second.model_copy(update={"uid": first.uid})
    with pytest.raises(HarveysegError, match=rf"a\.jsonl: two runs have the id {first.uid}, one with seed 0 .* seed 1"):
        merge_study_runs({"a.jsonl": replace(runs, runs=(first, twin))})
