"""Which command of DVC works in a project: a real process and the locks that DVC writes while it runs a stage."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harveyseg.errors import HarveysegError
from harveyseg.overview.status import inspect_workspace
from harveyseg.pipeline.running import RunningCommand, locked_message, require_idle, running_stages

STAGE = "import time; print('writes', flush=True); time.sleep(60)"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A project in which `dvc repro` runs a stage; and the process."""
    root = tmp_path_factory.mktemp("project")
    dvc = shutil.which("dvc", path=str(Path(sys.executable).parent)) or "dvc"
    subprocess.run([dvc, "init", "--no-scm", "-q"], cwd=root, check=True)
    stage = {"cmd": f'{sys.executable} -c "{STAGE}"', "outs": ["data/models/unet-0"]}
    (root / "dvc.yaml").write_text(json.dumps({"stages": {"train": stage}}))
    with subprocess.Popen([dvc, "repro"], cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "writes":
                break
        yield root, process.pid
        process.terminate()


def test_the_command_and_what_it_writes_are_named(project: tuple[Path, int]) -> None:
    root, pid = project
    assert running_stages(root) == [RunningCommand(pid, "dvc repro", "data/models/unet-0")]
    said = f"data/models/unet-0: `dvc repro` (process {pid}) writes it now. Wait until that command has ended, then X."
    with pytest.raises(HarveysegError) as refused:
        require_idle(root, "X")
    assert str(refused.value) == locked_message(root, "X") == said


def test_status_says_so_at_once(project: tuple[Path, int]) -> None:
    with pytest.raises(HarveysegError, match=r"`dvc repro` .* then run `harveyseg status` again"):
        inspect_workspace(project[0])


def test_a_process_that_has_ended_or_is_another_does_not_count(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    locks = tmp_path / ".dvc" / "tmp" / "rwlock"
    locks.parent.mkdir(parents=True)
    (locks.parent / "lock").write_text(f" {ended.pid}\n")
    for content in ({"write": {f"{tmp_path}/data": {"pid": pid, "cmd": "dvc repro"}}} for pid in (ended.pid, 1)):
        locks.write_text(json.dumps(content))
        assert running_stages(tmp_path) == []
    for damaged in ("", "{", "[]", '{"write": {"a": 1}}'):
        locks.write_text(damaged)
        require_idle(tmp_path, "X")
    assert "another command of DVC has locked the project" in locked_message(tmp_path, "X")
