"""The wheel: it holds all that a new pipeline repository starts from, and a pipeline without ``src`` runs it."""

import errno
import os
import shutil
import subprocess
import sys
import zipfile
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from unittest.mock import Mock

import pytest
from ruamel.yaml import YAML

from harveyseg.config.settings import load
from harveyseg.pipeline.new_repository import create_repository
from helpers.paths import ROOT
from helpers.project import FEW_PHOTOS, TINY, lay_over

pytestmark = pytest.mark.slow

TEMPLATE = "harveyseg/pipeline/template"
FILES = ("dvc.yaml", "params.yaml", "data/README.md", ".gitignore", ".dvcignore")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of packages in which a freshly built wheel is unpacked, without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / ".dvc" / "plots", source / ".dvc" / "plots")
    (source / "data").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", *FILES):
        shutil.copy(ROOT / name, source / name)
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, text=True)
    with zipfile.ZipFile(folder / done.stdout.splitlines()[-1]) as wheel:
        wheel.extractall(folder / "packages")
    return folder / "packages"


def relative_files(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in paths}


def test_the_wheel_holds_the_package_and_the_template(installed: Path) -> None:
    packaged = relative_files(installed / "harveyseg")
    source = relative_files(ROOT / "src" / "harveyseg")
    template = {
        *FILES,
        *(f"{name}/{file}" for name in ("stages", ".dvc/plots") for file in relative_files(ROOT / name)),
    }
    assert packaged == source | {f"pipeline/template/{name}" for name in template}
    assert {"config/presets/demo.yaml", "config/presets/report.yaml", "py.typed"} < packaged
    for name in template:
        assert (installed / TEMPLATE / name).read_bytes() == (ROOT / name).read_bytes(), name


def run(folder: Path, installed: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does who has installed the wheel."""
    environment = os.environ | {"PYTHONPATH": str(installed), "VIRTUAL_ENV": sys.prefix, "OMP_NUM_THREADS": "1"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for name in [name for name in environment if name.startswith(("DVC_ROOT", "MLFLOW", "GIT"))]:
        del environment[name]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def init(folder: Path, installed: Path, name: str) -> subprocess.CompletedProcess[str]:
    code = "from harveyseg.cli import app; app()"
    return run(folder, installed, sys.executable, "-c", code, "init", name)


@pytest.mark.long
def test_a_new_repository_runs_the_installed_package(installed: Path, tmp_path: Path) -> None:
    """From `init` to the table; a change of the package's version is noticed."""
    with (installed / "harveyseg" / "score.py").open("a") as opened:
        opened.write("# Of the installed package.\n")
    assert init(tmp_path, installed, "flood").returncode == 0
    folder = tmp_path / "flood"
    assert [path.name for path in tmp_path.iterdir()] == ["flood"]
    params = load(folder / "params.yaml")
    lay_over(params, {**TINY, "data": FEW_PHOTOS})
    YAML().dump(params, folder / "params.yaml")
    assert run(folder, installed, "git", "add", "-A").returncode == 0
    done = run(folder, installed, "dvc", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| unet " in (folder / "data" / "reports" / "comparison.md").read_text()
    assert "up to date" in run(folder, installed, "dvc", "status").stdout
    done = run(folder, installed, "dvc", "plots", "show")
    assert "../data/metrics/vega.js" in (folder / "dvc_plots" / "index.html").read_text(), done.stderr
    assert "dvc_plots" not in run(folder, installed, "git", "status", "--porcelain").stdout

    lines = (folder / "data" / "code" / "submit.txt").read_text().splitlines()
    digests = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert "harveyseg/score.py" in digests
    for name, digest in digests.items():
        path = folder / name if name.startswith("stages/") else installed / name
        assert digest == sha256(path.read_bytes()).hexdigest(), name

    pin = folder / "requirements.txt"
    pin.write_text("harveyseg==0.0.1\n")
    done = run(folder, installed, "dvc", "repro")
    assert f"names harveyseg 0.0.1, but {version('harveyseg')} is installed" in done.stderr + done.stdout
    assert done.returncode != 0


def test_a_new_repository_on_a_disk_without_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an SD card, where all files have one mode."""
    monkeypatch.setattr(os, "chmod", Mock(side_effect=PermissionError(errno.EPERM, os.strerror(errno.EPERM))))
    create_repository(tmp_path / "flood")
    for name in (*FILES[1:], "stages/run", "stages/train.py", ".dvc/plots/page.html"):
        assert (tmp_path / "flood" / name).read_bytes() == (ROOT / name).read_bytes()


def test_a_folder_that_holds_something_stays_as_it_is(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "flood").mkdir()
    (tmp_path / "flood" / "notes.txt").write_text("mine")
    done = init(tmp_path, installed, "flood")
    assert (done.returncode, done.stderr) == (
        1,
        "error: flood: is not an empty folder. Name another one, or empty it.\n",
    )
    assert [path.name for path in (tmp_path / "flood").iterdir()] == ["notes.txt"]


def test_a_sub_folder_of_a_repository(installed: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert init(tmp_path, installed, "models/flood").returncode == 0
    folder = tmp_path / "models" / "flood"
    assert not (folder / ".git").exists()
    done = run(folder, installed, "dvc", "repro", "code")
    assert done.returncode == 0, done.stdout + done.stderr
