"""``run.json``: what is written comes back; what is damaged is named, with the remedy."""

import json
from pathlib import Path

import pytest

from harveyseg.errors import HarveysegError
from harveyseg.record import (
    RunRecord,
    Value,
    identify_evaluation,
    identify_postprocessing,
    read_evaluation_id,
    read_run,
    write_run,
)
from helpers.records import START_MS, make_record


def record() -> RunRecord:
    return make_record(
        fold=2,
        parameters={"train.lr": 1e-05, "train.ema": None, "train.softmax_before_loss": False, "model.network": "unet"},
        git_commit=None,
        git_dirty=True,
        ended_ms=START_MS + 60_333,
        results={"best/val_argmax_score": 0.1 + 0.2, "best/epoch": 3.0},
    )


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    original = record()
    write_run(tmp_path / "unet-2" / "run.json", original)
    read = read_run(tmp_path / "unet-2" / "run.json")
    assert read == original
    assert read.results["best/val_argmax_score"] == 0.1 + 0.2  # 0.30000000000000004
    assert isinstance(read.parameters["train.lr"], float)


def test_two_records_differ_in_uid() -> None:
    assert record().uid != record().uid


@pytest.mark.parametrize(
    ("model", "fold", "experiment", "name"),
    [
        ("unet", 2, None, "unet-f2"),
        ("unet", 0, "ocher-pope", "unet-f0@ocher-pope"),
        ("ensemble", None, None, "ensemble"),
        ("ensemble", None, "ocher-pope", "ensemble@ocher-pope"),
    ],
)
def test_name(model: str, fold: int | None, experiment: str | None, name: str) -> None:
    assert record().model_copy(update={"model": model, "fold": fold, "experiment": experiment}).name == name


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ('{"uid": "abc', "not valid JSON"),
        ("[]", "holds a list"),
        ("{}", "kind, model, fold"),
        (None, "no such file"),
        ("misspelt", "git_comit"),
        ("wrong type", "started_ms"),
    ],
)
def test_damaged_file_is_named_with_its_remedy(tmp_path: Path, content: str | None, cause: str) -> None:
    path = tmp_path / "unet-2" / "run.json"
    path.parent.mkdir()
    values = record().model_dump()
    if content == "misspelt":
        content = json.dumps(values | {"git_comit": "abc"})
    elif content == "wrong type":
        content = json.dumps(values | {"started_ms": "yesterday"})
    if content is not None:
        path.write_text(content)
    with pytest.raises(HarveysegError) as caught:
        read_run(path)
    for part in (str(path), cause, "dvc"):
        assert part in str(caught.value)


def test_nan_is_never_written(tmp_path: Path) -> None:
    broken = record().model_copy(update={"results": {"written/train_loss": float("nan")}})
    with pytest.raises(ValueError, match="JSON"):
        write_run(tmp_path / "run.json", broken)
    assert not list(tmp_path.iterdir())


def test_an_evaluation_is_identified_by_run_settings_data_and_code() -> None:
    settings: dict[str, Value] = {"inference.tta": "none", "inference.threads": 2}
    flips = settings | {"inference.tta": "flips"}
    ids = {
        identify_evaluation(uid, chosen, data_hash, code)["evaluation"]
        for uid, chosen, data_hash, code in (
            ("u1", settings, "d1", "c1"),
            ("u2", settings, "d1", "c1"),
            ("u1", flips, "d1", "c1"),
            ("u1", settings, "d2", "c1"),
            ("u1", settings, "d1", "c2"),
        )
    }
    assert len(ids) == 5
    assert identify_evaluation("u1", settings, "d1", "c1")["evaluation"] in ids
    assert settings.items() <= identify_evaluation("u1", settings, "d1", "c1").items()


def test_post_processing_is_identified_by_its_settings_its_code_and_all_that_it_was_fitted_on() -> None:
    ids = []
    for method, second, code in (
        ("auto", "e2", "c1"),
        ("argmax", "e2", "c1"),
        ("auto", "e3", "c1"),
        ("auto", "e2", "c2"),
    ):
        settings: dict[str, Value] = {"postprocess.method": method}
        entries = identify_postprocessing({0: "e1", 2: second}, settings, code)
        assert entries.keys() == {0, 2}
        assert all(settings.items() <= entry.items() for entry in entries.values())
        assert str(entries[2]["evaluation"]).startswith(f"{second}-")
        ids.append(str(entries[0]["evaluation"]))
    assert len(set(ids)) == 4
    assert all(identity.startswith("e1-") for identity in ids)
    again = identify_postprocessing({2: "e2", 0: "e1"}, {"postprocess.method": "auto"}, "c1")
    assert again[0]["evaluation"] == ids[0]


def test_a_file_that_names_no_evaluation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "unet-2" / "metrics.json"
    path.parent.mkdir()
    path.write_text('{"uid": "1f", "evaluation": "e1"}')
    assert read_evaluation_id(path) == "e1"
    path.write_text('{"uid": "1f"}')
    with pytest.raises(HarveysegError, match=r"names no evaluation\. Run `dvc repro` to evaluate unet-2 again"):
        read_evaluation_id(path)
