"""benchmarks/same_results.py must not call different results the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import same_results
from harveyseg.config.lock import dvc_md5
from harveyseg.errors import HarveysegError

STAGES = {
    "code": (["code.py"], ["data/code.txt"]),
    "train": (
        ["data/code.txt"],
        [f"data/models/unet-0/{name}" for name in ("history.csv", "run.json", "weights.safetensors")],
    ),
    "evaluate": (
        ["data/models/unet-0"],
        ["data/predictions/unet-0/metrics.json", "data/predictions/unet-0/test.npy"],
    ),
    "compare": (["data/models", "data/predictions"], ["data/reports/comparison.csv"]),
    "submit": (["data/models", "data/predictions"], ["data/submission"]),
}
WEIGHTS = "data/models/unet-0/weights.safetensors"
HISTORY = "data/models/unet-0/history.csv"
RUN = "data/models/unet-0/run.json"
METRICS = "data/predictions/unet-0/metrics.json"
TABLE = "data/reports/comparison.csv"
MASKS = "data/submission/submission.csv"
SIDE_CAR = "data/submission/submission.json"


def make(folder: Path, uid: str, now: int) -> Path:
    """A project as a pipeline leaves it, with these ids and times."""
    run_id = f"{uid[::-1]}"
    record = {"uid": uid, "run_id": run_id, "started_ms": now, "stage_key": "s", "results": {"seconds": now / 7}}
    files = {
        "code.py": "code",
        "data/code.txt": "code",
        WEIGHTS: "weights",
        HISTORY: f"epoch,time_ms,train_loss\n1,{now},0.5\n",
        RUN: json.dumps(record),
        METRICS: json.dumps({"uid": uid, "evaluation": f"of {uid}", "val/score": 0.75}),
        "data/predictions/unet-0/test.npy": "probabilities",
        TABLE: "model,score\nunet,0.75\n",
        MASKS: "masks",
        SIDE_CAR: json.dumps({"members": {"unet-0": {"uid": uid, "run_id": run_id}}}),
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    pipeline = {name: {"cmd": name, "deps": deps, "outs": outs} for name, (deps, outs) in STAGES.items()}
    YAML().dump({"stages": pipeline}, folder / "dvc.yaml")
    record_all(folder)
    return folder


def record_all(folder: Path) -> None:
    """Write ``dvc.lock``, as DVC would after these files were made."""

    def entries(paths: list[str]) -> list[dict[str, object]]:
        return [{"path": path, "hash": "md5", "md5": dvc_md5(folder / path)} for path in paths]

    stages = {
        name: {"cmd": name, "params": {"params.yaml": {"lr": 0.1}}, "deps": entries(deps), "outs": entries(outs)}
        for name, (deps, outs) in STAGES.items()
    }
    YAML().dump({"schema": "2.0", "stages": stages}, folder / "dvc.lock")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return make(tmp_path / "one", "0123456789abcdef", 1), make(tmp_path / "two", "fedcba98765432aa", 2)


def test_ids_and_times_do_not_count(pair: tuple[Path, Path]) -> None:
    compared = same_results.Comparison(*pair)
    assert compared.differences == []
    assert compared.stages == len(STAGES)
    assert compared.equal_but_ids == {HISTORY, RUN, METRICS, SIDE_CAR}
    assert compared.equal == {"data/code.txt", WEIGHTS, "data/predictions/unet-0/test.npy", TABLE, MASKS}


def replacing(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / path).read_text()
        assert old in text
        (folder / path).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "behind DVC's back"])
@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (WEIGHTS, "weights", "weighty"),
        ("data/predictions/unet-0/test.npy", "b", "d"),
        (TABLE, "0.75", "0.76"),
        (MASKS, "masks", "maskz"),
        (HISTORY, "0.5", "0.6"),
        (METRICS, "0.75", "0.76"),
        (RUN, '"stage_key": "s"', '"stage_key": "t"'),
        (SIDE_CAR, "fedcba98765432aa", "fedcba98765432ab"),  # another run's id is no id of this project
        (SIDE_CAR, '"members"', '"of"'),
    ],
)
def test_one_changed_result_is_a_difference(
    pair: tuple[Path, Path], path: str, old: str, new: str, recorded: bool
) -> None:
    replacing(path, old, new)(pair[1])
    if recorded:
        record_all(pair[1])
    differences = same_results.Comparison(*pair).differences
    assert f"{path}: other content" in differences
    assert any("not what dvc.lock records" in line for line in differences) != recorded


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        ("dvc.lock", "cmd: train", "cmd: train --fast", "train: other cmd in dvc.lock"),
        ("dvc.lock", "lr: 0.1", "lr: 0.2", "code: other params in dvc.lock"),
        ("dvc.lock", "path: data/code.txt", "path: data/other.txt", "code, outs: other paths in dvc.lock"),
    ],
)
def test_other_records_are_a_difference(pair: tuple[Path, Path], path: str, old: str, new: str, expected: str) -> None:
    replacing(path, old, new)(pair[1])
    assert expected in same_results.Comparison(*pair).differences


def test_other_code_is_a_difference_though_results_are_equal(pair: tuple[Path, Path]) -> None:
    (pair[1] / "code.py").write_text("other code")
    record_all(pair[1])
    assert same_results.Comparison(*pair).differences == ["code.py: other hash in dvc.lock"]


def test_a_lost_and_an_additional_file_are_differences(pair: tuple[Path, Path]) -> None:
    (pair[0] / MASKS).unlink()
    (pair[1] / "data" / "submission" / "more.csv").write_text("more")
    record_all(pair[1])
    differences = same_results.Comparison(*pair).differences
    assert f"{pair[0] / 'data' / 'submission'}: not what dvc.lock records" in differences
    assert f"{MASKS}: in one of the projects only" in differences
    assert "data/submission/more.csv: in one of the projects only" in differences


def test_another_order_of_stages_is_a_difference(pair: tuple[Path, Path]) -> None:
    yaml = YAML(typ="safe", pure=True)
    lock = yaml.load(pair[1] / "dvc.lock")
    lock["stages"] = {name: lock["stages"][name] for name in ("code", "train", "evaluate", "submit", "compare")}
    plain = YAML()
    plain.dump(lock, pair[1] / "dvc.lock")
    [difference] = same_results.Comparison(*pair).differences
    assert difference == f"dvc.lock: stage 4 is compare in {pair[0]}, submit in {pair[1]}"


@pytest.mark.parametrize("both", [True, False])
def test_a_stage_that_has_not_run_is_no_result_even_where_both_lack_it(pair: tuple[Path, Path], both: bool) -> None:
    plain = YAML()
    for folder in pair if both else pair[1:]:
        lock = plain.load(folder / "dvc.lock")
        del lock["stages"]["submit"]
        plain.dump(lock, folder / "dvc.lock")
    lacking = pair[0 if both else 1]
    with pytest.raises(HarveysegError, match=f"{lacking}: not finished; dvc.lock lacks submit. Run `dvc repro` there."):
        same_results.Comparison(*pair)


def test_the_command_exits_with_1_and_names_what_differs(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*projects: Path) -> object:
        monkeypatch.setattr("sys.argv", ["same_results.py", *map(str, projects)])
        try:
            same_results.main()
        except SystemExit as ended:
            return ended.code
        return 0

    assert run(*pair) == 0
    assert capsys.readouterr().out.startswith("the same results: 5 stages, 5 files with the same bytes, 4 that differ")
    assert run(pair[0], pair[0]) == 1  # nothing would be compared
    shutil.copy(pair[0] / "code.py", pair[1] / WEIGHTS)
    code = run(*pair)
    assert isinstance(code, str)  # printed, and the status is 1
    assert f"  {WEIGHTS}: other content" in code
