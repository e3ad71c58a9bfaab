"""A stage imports no large library that it does not use: most of a short stage's time goes into imports."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers.paths import ROOT
from helpers.project import Project

LARGE = {
    "albumentations", "alembic", "dvc", "geopandas", "iterstrat", "matplotlib", "mlflow", "rasterio", "scipy",
    "segmentation_models_pytorch", "sklearn", "sqlalchemy", "sympy", "timm", "torch", "torchvision", "vl_convert",
}  # fmt: skip
"""Each takes from a tenth of a second to two seconds. What a stage needs later, such as MLflow or a network's library,
it imports then: its help does not need it, nor does an error in a setting."""
USED = {
    "code": {"scipy", "torch"},
    "compare": set[str](),
    "download": {"scipy"},
    "ensemble": {"matplotlib"},
    "evaluate": {"matplotlib", "torch"},
    "metrics": set[str](),
    "postprocess": {"matplotlib"},
    "resize_cache": set[str](),
    "split": {"matplotlib", "scipy"},
    "submit": set[str](),
    "train": {"torch"},
}
"""What each stage's script may import of them."""
IMPORTED = "import runpy, sys; runpy.run_path(sys.argv[1]); print(*{name.partition('.')[0] for name in sys.modules})"


def imported_by(script: Path) -> set[str]:
    command = [sys.executable, "-P", "-c", IMPORTED, str(script)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_every_stage_is_listed() -> None:
    assert USED.keys() == {script.stem for script in (ROOT / "stages").glob("*.py")}


@pytest.mark.parametrize("stage", USED)
def test_a_stage_imports_only_what_it_uses(stage: str) -> None:
    assert imported_by(ROOT / "stages" / f"{stage}.py") & LARGE == USED[stage]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["ensemble", "postprocess", "metrics", "compare", "submit"])
def test_what_follows_the_networks_computes_without_torch(project: Project, stage: str) -> None:
    command = [sys.executable, "-P", "-X", "importtime", f"stages/{stage}.py"]
    environment = os.environ | {"PYTHONPATH": str(project.folder / "src")}
    done = subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True, check=True)
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "numpy" in imported
    assert "torch" not in imported


@pytest.mark.parametrize("stage", USED)
def test_a_stage_keeps_the_garbage_collector_out_before_it_imports_all_else(stage: str) -> None:
    lines = (ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8").splitlines()
    own = [line for line in lines if line.startswith(("import harveyseg", "from harveyseg"))]
    assert own[0].startswith("import harveyseg.pipeline.start ")


def test_what_was_imported_is_not_searched_for_garbage() -> None:
    """Half a million objects stay until the process ends: a collection, also the last one, leaves them alone."""
    code = """
import gc, harveyseg.pipeline.start
import matplotlib.figure, pandas
looked = gc.get_stats()[2]["collections"]
import atexit
atexit._run_exitfuncs()
print(looked, gc.get_freeze_count() > 50_000, len(gc.get_objects()) < 1000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0 True True\n"


def test_a_process_that_ends_so_says_nothing_of_it() -> None:
    """Triton counts what is not freed, and torch imports it with its compiler."""
    code = "import harveyseg.pipeline.start, sys, torch._dynamo; print('triton' in sys.modules); sys.exit(3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == "True\n" or find_spec("triton") is None
