"""A params.yaml that an editor damaged: one sentence with file, line and remedy, and the file stays as it is."""

from pathlib import Path

import pytest

from harveyseg.config.preset import apply_preset, matches_preset
from harveyseg.config.settings import listed_models, load
from harveyseg.errors import HarveysegError

DAMAGED = {
    "empty": (b"", "is empty; a mapping"),
    "comments": (b"# nothing\n", "is empty; a mapping"),
    "list": (b"- train\n- models\n", "holds a list; a mapping"),
    "text": (b"train\n", "holds a str; a mapping"),
    "duplicate": (b"train:\n  lr: 1\n  lr: 2\n", r'line 3: found duplicate key "lr" a second time. Delete'),
    "tab": (b"train:\n\tlr: 1\n", "line 2: a tab"),
    "bracket": (b"train:\n  lr: 1\nfolds: [0, 1\n", r"line \d: .*Correct this line"),
    "two": (b"a: 1\n---\nb: 2\n", r"line \d: .*Correct this line"),
    "control": (b"train: \x00\n", "special characters are not allowed. Correct that"),
    "date": (b"train: 2026-13-45\n", "month must be in 1..12. Correct that"),
    "utf-16": ("train:\n  lr: 1\n".encode("utf-16"), "is not UTF-8 text.*Save it as UTF-8"),
    "latin-1": ("# Größe\ntrain: 1\n".encode("latin-1"), "is not UTF-8 text.*Save it as UTF-8"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_one_sentence(tmp_path: Path, kind: str) -> None:
    content, cause = DAMAGED[kind]
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    for read in (
        load,
        listed_models,
        lambda path: matches_preset("demo", path),
        lambda path: apply_preset("demo", path),
    ):
        with pytest.raises(HarveysegError, match=rf"params\.yaml: .*{cause}") as caught:
            read(path)
        assert len(str(caught.value).splitlines()) == 1
    assert path.read_bytes() == content


def test_a_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(HarveysegError, match=r"params\.yaml: is a folder.*harveyseg init"):
        apply_preset("demo", tmp_path / "params.yaml")


def test_a_mark_at_the_start_of_utf_8_is_read(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train:\n  lr: 1\n", encoding="utf-8-sig")
    assert load(tmp_path / "params.yaml") == {"train": {"lr": 1}}
