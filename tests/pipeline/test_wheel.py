"""The wheel: it holds all that a new pipeline repository starts from, and a pipeline without ``src`` runs it."""

import os
import shutil
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from helpers.paths import ROOT

pytestmark = pytest.mark.slow

TEMPLATE = "harveyseg/pipeline/template"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of packages in which a freshly built wheel is unpacked, without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "dvc.yaml"):
        shutil.copy(ROOT / name, source)
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
    template = {"dvc.yaml", *(f"stages/{name}" for name in relative_files(ROOT / "stages"))}
    assert packaged == source | {f"pipeline/template/{name}" for name in template}
    assert {"config/presets/demo.yaml", "config/presets/report.yaml", "py.typed"} < packaged
    for name in template:
        assert (installed / TEMPLATE / name).read_bytes() == (ROOT / name).read_bytes(), name


def test_a_pipeline_without_src_digests_the_installed_package(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(installed / TEMPLATE, tmp_path, dirs_exist_ok=True)
    (tmp_path / "stages" / "run").chmod(0o755)  # zipfile does not keep it
    (tmp_path / "data").mkdir()
    for name in ("params.yaml", "data/README.md"):  # the second is data.path in the first
        shutil.copy(ROOT / name, tmp_path / name)
    with (installed / "harveyseg" / "score.py").open("a") as opened:
        opened.write("# Of the installed package.\n")
    environment = os.environ | {"PYTHONPATH": str(installed), "VIRTUAL_ENV": sys.prefix}
    subprocess.run(["stages/run", "code"], cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=300)
    lines = (tmp_path / "data" / "code" / "submit.txt").read_text().splitlines()
    digests = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert "harveyseg/score.py" in digests
    for name, digest in digests.items():
        path = tmp_path / name if name.startswith("stages/") else installed / name
        assert digest == sha256(path.read_bytes()).hexdigest(), name
    assert (tmp_path / "data" / "code" / "train" / "unet.json").exists()
