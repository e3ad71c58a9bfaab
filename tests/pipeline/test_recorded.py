"""Changed results are noticed by the digests that a real DVC wrote."""

import subprocess
import sys
from pathlib import Path

import pytest

from harveyseg.errors import HarveysegError
from harveyseg.pipeline.recorded import require_recorded

STAGE = """
stages:
  make:
    cmd: mkdir -p data/rules/b && echo 1 > data/weights && echo 2 > data/rules/é && echo 3 > data/rules/b/c
    outs: [data/weights, data/rules]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "dvc.yaml").write_text(STAGE)
    for command in (["init", "-q", "--no-scm"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=folder, check=True)
    return folder


def test_what_the_pipeline_wrote_is_used_and_leftovers_do_not_matter(project: Path) -> None:
    (project / "data" / "rules" / ".DS_Store").touch()
    require_recorded([project / "data" / name for name in ("weights", "rules/é", "rules/b/c")], project)
    (project / "data" / "note").touch()
    require_recorded([project / "data" / "note", project / "data" / "absent"], project)  # no outs


@pytest.mark.parametrize(("name", "out"), [("weights", "weights"), ("rules/é", "rules"), ("rules/b/c", "rules")])
def test_a_changed_file_is_named(project: Path, name: str, out: str) -> None:
    path = project / "data" / name
    before = path.read_bytes()
    path.unlink()  # DVC may have linked it to its cache
    path.write_bytes(b"4\n")
    with pytest.raises(HarveysegError, match=rf"data/{out}: is not what the pipeline wrote") as caught:
        require_recorded([path], project)
    assert "dvc checkout --force" in str(caught.value)
    path.write_bytes(before)
    require_recorded([path], project)


def test_without_dvc_nothing_is_compared(tmp_path: Path) -> None:
    (tmp_path / "weights").touch()
    require_recorded([tmp_path / "weights"], tmp_path)
