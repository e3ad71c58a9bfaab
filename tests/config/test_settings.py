"""params.yaml as DVC writes it, and errors that say what is allowed."""

from pathlib import Path

import pytest
from dvc.utils.serialize import modify_yaml
from pydantic import Field

from harveyseg.config.settings import Section, listed_models, load, parse, section
from harveyseg.errors import HarveysegError


class Inner(Section):
    flip: float = Field(default=0.5, ge=0, le=1)


class Recipe(Section):
    lr: float = Field(gt=0)
    epochs: int = Field(default=3, ge=1)
    inner: Inner = Inner()


def written(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def test_a_small_rate_that_dvc_wrote_is_a_number(tmp_path: Path) -> None:
    path = written(tmp_path, "train:\n  lr: 0.1\n")
    with modify_yaml(path) as params:  # what `dvc exp run -S train.lr=0.00001` calls
        params["train"]["lr"] = 0.00001
    assert "lr: 1e-05" in path.read_text()
    assert section(path, "train", Recipe).lr == 1e-5


def test_a_small_rate_without_a_dot_is_a_number(tmp_path: Path) -> None:
    lr = load(written(tmp_path, "train:\n  lr: 1e-05\n"))["train"]["lr"]
    assert isinstance(lr, float)
    assert lr == 1e-5


def test_all_problems_come_at_once_with_what_is_allowed() -> None:
    values = {"lr": -1, "epochs": 0, "learning_rate": 1, "inner": {"flip": 2, "flop": 1}}
    with pytest.raises(HarveysegError) as caught:
        parse(Recipe, values, "train")
    assert str(caught.value).startswith("params.yaml: 5 problems\n")
    assert sorted(caught.value.problems)[:4] == [
        "train.epochs = 0: Input should be greater than or equal to 1",
        "train.inner.flip = 2: Input should be less than or equal to 1",
        "train.inner.flop: unknown key. Known are: flip",
        "train.learning_rate: unknown key. Known are: epochs, inner, lr",
    ]
    assert "train.lr = -1: Input should be greater than 0" in caught.value.problems


def test_a_missing_key_is_named() -> None:
    with pytest.raises(HarveysegError, match=r"train\.lr: missing"):
        parse(Recipe, {}, "train")


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_infinity_and_nan_are_no_settings(tmp_path: Path, value: str) -> None:
    # JSON, in which the settings are kept, has none of them.
    with pytest.raises(HarveysegError, match=r"train\.lr = .*finite number"):
        section(written(tmp_path, f"train:\n  lr: {value}\n"), "train", Recipe)


def test_settings_do_not_change_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(Recipe, {"lr": 1}, "train").lr = 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; a mapping of keys to values.*harveyseg init"),
        ("- 1\n", "holds a list; a mapping"),
        ("train: {lr: 1\n", "not valid YAML.*line"),
        ("train:\n  lr: 1\n  lr: 2\n", "(?s)not valid YAML.*duplicate key"),
        ("other: 1\n", "the section 'train' is missing.*harveyseg preset demo"),
        ("train:\n", "the section 'train' must be a mapping"),
        ("train: 5\n", "the section 'train' must be a mapping"),
    ],
)
def test_what_is_no_settings_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(HarveysegError, match=f"(?s){message}") as caught:
        section(path, "train", Recipe)
    assert str(path) in str(caught.value)


def test_absent_and_binary_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(HarveysegError, match=r"params\.yaml: no such file\. Run this in the project's root"):
        load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"train:\n  lr: \xff\xfe\n")
    with pytest.raises(HarveysegError, match=r"params\.yaml: is not UTF-8 text"):
        load(tmp_path / "params.yaml")


def test_listed_models_and_folds_keep_the_order_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "models: {c: {network: unet}, a: {network: unet}}\nfolds: [2, 0]\n")
    assert listed_models(path) == (("c", "a"), (2, 0))


@pytest.mark.parametrize("content", ["models: {}\nfolds: [0]\n", "models: {a: {}}\n", "models: {a: {}}\nfolds: []\n"])
def test_empty_lists_of_models_and_folds_are_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(HarveysegError, match="must each name at least one"):
        listed_models(written(tmp_path, content))
