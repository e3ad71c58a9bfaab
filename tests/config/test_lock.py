"""What dvc.lock records, as a real DVC wrote it."""

from pathlib import Path

import pytest
from dvc.repo import Repo

from harveyseg.config.lock import dvc_md5, read_recorded, recorded_outputs

PIPELINE = """
stages:
  count:
    cmd: mkdir -p data/folder && echo 1 > data/one.txt && echo 2 > data/folder/two.txt
    outs: [data/one.txt, data/folder]
"""


def test_outputs_that_dvc_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    one = Path("data/one.txt")
    assert recorded_outputs(Path("dvc.lock")) == {}
    assert read_recorded(one) is None
    Path("dvc.yaml").write_text(PIPELINE)
    with Repo.init(no_scm=True) as repo:
        repo.reproduce()
    assert recorded_outputs(Path("dvc.lock")) == {"data/one.txt": dvc_md5(one)}  # a folder has no MD5 of its bytes
    one.unlink()  # as DVC does before a stage runs
    assert read_recorded(one) == "1\n"
    assert read_recorded(Path("data/other.txt")) is None
    for cached in Path(".dvc/cache/files").rglob("*"):
        if cached.is_file():
            cached.unlink()
    assert read_recorded(one) is None
