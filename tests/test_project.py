"""Git's state, read from real repositories."""

import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from harveyseg.project import GitState, experiment_name, git_state, input_path, library_versions
from helpers.small_disk import small_disk


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def plain_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set when a git hook runs the tests
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "src").mkdir(parents=True)
    for name in ("params.yaml", "dvc.lock", "dvc.yaml", "src/train.py", "src/params.yaml", "src/ü x.py"):
        (folder / name).write_text("1\n")
    git(folder, "init", "-q")
    (folder / ".gitignore").write_text("ignored.py\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "Start")
    return folder


def test_a_clean_checkout(repository: Path) -> None:
    assert git_state(repository) == GitState(git(repository, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize(
    ("names", "dirty"),
    [
        (["params.yaml"], False),
        (["dvc.lock"], False),
        (["params.yaml", "dvc.lock"], False),  # what every experiment changes
        (["new.py"], False),  # untracked, but no code of the project
        (["src/new.txt"], False),
        (["src/new.py"], True),
        (["src/harveyseg/models/networks/mynet.py"], True),
        (["src/harveyseg/config/presets/mine.yaml"], True),
        (["stages/new.py"], True),
        (["src/ignored.py"], True),  # by .gitignore: it is in no commit either
        (["dvc.yaml"], True),
        (["src/train.py"], True),
        (["src/params.yaml"], True),  # another file of that name
        (["src/ü x.py"], True),
        (["params.yaml", "dvc.yaml"], True),
    ],
)
def test_changes(repository: Path, names: list[str], dirty: bool, staged: bool) -> None:
    for name in names:
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("2\n")
        if staged and "new" not in name and "ignored" not in name:
            git(repository, "add", name)
    assert git_state(repository).dirty is dirty


def test_deletions_and_renames(repository: Path) -> None:
    git(repository, "mv", "params.yaml", "settings.yaml")
    assert git_state(repository).dirty
    git(repository, "reset", "-q", "--hard")
    assert not git_state(repository).dirty
    (repository / "src" / "train.py").unlink()
    assert git_state(repository).dirty


def test_another_commit_is_another_state(repository: Path) -> None:
    first = git_state(repository).commit
    (repository / "src" / "train.py").write_text("2\n")
    git(repository, "commit", "-q", "-a", "-m", "Change")
    second = git_state(repository)
    assert second == GitState(git(repository, "rev-parse", "HEAD"), False)
    assert second.commit != first


def test_no_repository_no_commit_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_state(tmp_path) == GitState(None, None)
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) == GitState(None, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) == GitState(None, None)


def test_an_index_that_git_cannot_read_is_unknown_and_not_clean(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    (repository / ".git" / "index").write_bytes(b"damaged")
    assert git_state(repository) == GitState(commit, None)


def test_what_was_staged_and_undone_is_no_change(repository: Path) -> None:
    script = repository / "src" / "train.py"
    script.write_text("2\n")
    git(repository, "add", ".")
    script.write_text("1\n")
    assert not git_state(repository).dirty
    (repository / "new.txt").write_text("2\n")
    git(repository, "add", "new.txt")
    assert git_state(repository).dirty
    (repository / "new.txt").unlink()
    assert not git_state(repository).dirty
    script.write_text("3\n")
    assert git_state(repository).dirty


def fill(disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        (disk / "filling").write_bytes(bytes(4 << 20))
    assert shutil.disk_usage(disk).free == 0


def test_on_a_full_disk_git_tells_as_much_as_elsewhere(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        project = disk / "flood maps"
        (project / "src").mkdir(parents=True)
        for name in ("params.yaml", "dvc.lock", "src/train.py", "src/other.py"):
            (project / name).write_text("1\n")
        git(disk, "init", "-q")
        git(disk, "add", ".")
        git(disk, "commit", "-q", "-m", "Start")
        (project / "params.yaml").write_text("2\n")
        staged = project / "src" / "other.py"
        commit = git(disk, "rev-parse", "HEAD")
        for path in (project / "src").iterdir():
            os.utime(path, (0, 0))  # touched and not changed, so that git would like to write its index
        fill(disk)
        # What `git diff HEAD` does here, so that this test does not pass on a disk with room.
        diff = subprocess.run(["git", "diff", "HEAD"], cwd=disk, capture_output=True, text=True, check=False)
        assert diff.returncode != 0
        assert "index.lock" in diff.stderr
        assert git_state(project) == GitState(commit, False)
        os.truncate(project / "src" / "train.py", 1)  # "1", without the end of the line
        assert git_state(project) == GitState(commit, True)
        (disk / "filling").unlink()
        git(disk, "checkout", "-q", "flood maps/src")
        staged.write_text("3\n")
        git(disk, "add", "flood maps/src/other.py")
        fill(disk)
        assert git_state(project) == GitState(commit, True)


def test_nothing_is_written_into_the_repository(repository: Path) -> None:
    os.utime(repository / "src" / "train.py", (0, 0))
    index = (repository / ".git" / "index").read_bytes()
    assert git_state(repository).dirty is False
    assert (repository / ".git" / "index").read_bytes() == index
    git(repository, "status")  # which writes it
    assert (repository / ".git" / "index").read_bytes() != index


def test_a_project_in_a_folder_of_a_larger_repository(repository: Path) -> None:
    project = repository / "flood maps"
    (project / "src").mkdir(parents=True)
    for name in ("params.yaml", "dvc.lock", "src/train.py"):
        (project / name).write_text("1\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "Add a project")
    for name in ("params.yaml", "dvc.lock"):
        (project / name).write_text("2\n")
    (repository / "src" / "train.py").write_text("2\n")  # of another project
    assert git_state(project) == GitState(git(repository, "rev-parse", "HEAD"), False)
    (project / "src" / "train.py").write_text("2\n")
    assert git_state(project).dirty
    git(repository, "checkout", "-q", "flood maps/src/train.py")
    (project / "src" / "new.py").touch()
    assert git_state(project).dirty


def test_the_experiments_name_is_dvcs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    assert experiment_name() is None
    monkeypatch.setenv("DVC_EXP_NAME", "ocher-pope")
    assert experiment_name() == "ocher-pope"


def test_versions_are_those_installed() -> None:
    found = library_versions()
    assert found["torch"] == version("torch")
    assert found["harveyseg"] == version("harveyseg")
    assert {"albumentations", "mlflow", "numpy"} < found.keys()


@pytest.mark.parametrize("variable", ["DVC_ROOT", "HARVEYSEG_ROOT"])
def test_inputs_are_those_of_an_experiments_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    project, copy, other = (tmp_path / name for name in ("project", "project/.dvc/tmp/exps/copy", "other"))
    for folder in (copy, other):
        folder.mkdir(parents=True)
    for name in ("edited.csv", "ignored.csv", "untracked.csv"):
        (project / name).write_text("now")
        (other / name).write_text("of another folder")
    (copy / "edited.csv").write_text("as it was queued")
    (copy / "ignored.csv").symlink_to(project / "ignored.csv")
    (tmp_path / "photos").mkdir()
    (copy.parent / "photos").symlink_to(tmp_path / "photos")
    monkeypatch.setenv(variable, str(project))
    monkeypatch.chdir(project)
    assert input_path("edited.csv", project) == project / "edited.csv"
    monkeypatch.chdir(copy)
    assert input_path("edited.csv", project) == copy / "edited.csv"
    for name in ("ignored.csv", "untracked.csv", "absent.csv", "../photos", str(tmp_path / "photos")):
        assert input_path(name, project) == project / name
    assert input_path("edited.csv", other) == other / "edited.csv"
