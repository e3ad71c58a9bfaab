"""dvc.yaml and the stage scripts: their deps are what they import, and they are thin."""

import ast
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from harveyseg.pipeline.code import PACKAGE, closure
from helpers.paths import ROOT

STAGES: dict[str, dict[str, Any]] = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
# What these stages write does not depend on the tracker: an edit of it must not train anything again.
OBSERVED = {"harveyseg.tracking.client"}
RESULTS_OF_TRACKING = {"compare"}


def _script(stage: str) -> Path:
    return ROOT / "stages" / f"{stage.replace('-', '_')}.py"


def test_there_is_one_script_for_each_stage() -> None:
    assert {_script(stage).name for stage in STAGES} == {path.name for path in (ROOT / "stages").glob("*.py")}


@pytest.mark.parametrize("stage", STAGES)
def test_code_deps_are_exactly_the_imports(stage: str) -> None:
    without = set() if stage in RESULTS_OF_TRACKING else OBSERVED
    modules = [path.relative_to(PACKAGE).as_posix() for path in closure(_script(stage), without)]
    expected = {f"stages/{_script(stage).name}", *(f"src/harveyseg/{module}" for module in modules)}
    if stage == "configure":  # it digests the code of every network
        expected = {path for path in expected if "/models/" not in path} | {"src/harveyseg/models"}
    stated = {dep for dep in STAGES[stage]["deps"] if dep.startswith(("src/", "stages/"))}
    listed = "\n".join(f"      - {path}" for path in sorted(expected))
    assert stated == expected, f"dvc.yaml: the code deps of {stage} should be\n{listed}"


@pytest.mark.parametrize("stage", STAGES)
def test_scripts_are_thin_and_show_their_options(
    stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = ast.parse(_script(stage).read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert [function.name for function in functions] == ["main"]
    body = functions[0].body
    last = body[-1].end_lineno
    assert last is not None
    assert last - body[0].lineno <= 45
    # In this process: a new one for each stage would spend minutes on imports.
    monkeypatch.setattr(sys, "argv", [str(_script(stage)), "--help"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(_script(stage)), run_name="__main__")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    docstring = ast.get_docstring(functions[0])
    assert docstring is not None
    assert docstring.split()[0] in shown


@pytest.mark.parametrize("stage", [stage for stage, definition in STAGES.items() if "matrix" in definition])
def test_matrix_stages_run_every_listed_model_on_every_listed_fold(stage: str) -> None:
    assert STAGES[stage]["matrix"] == {"model": "${models}", "fold": "${folds}"}


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_active_environment_without_the_project_is_passed_over(tmp_path: Path, variable: str) -> None:
    foreign = tmp_path / "bin" / "python"
    foreign.parent.mkdir()
    foreign.write_text("#!/bin/sh\nexit 9\n")
    foreign.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "CONDA_PREFIX"}}
    environment |= {variable: str(tmp_path), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["stages/run", "split", "--help"]
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True, timeout=120)
    (tmp_path / "bin" / "harveyseg").symlink_to(foreign)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=120)
    assert done.returncode == 9


def test_a_stage_uses_the_code_of_its_own_checkout(tmp_path: Path) -> None:
    for folder in ("src", "stages"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    package = tmp_path / "package" / "src" / "harveyseg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "configs.py").write_text("raise SystemExit('the copy was used')\n")
    (tmp_path / "package" / "stages").mkdir()
    script = tmp_path / "package" / "stages" / "configure.py"
    script.write_text((ROOT / "stages" / "configure.py").read_text())
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60)
    assert "the copy was used" in done.stderr
