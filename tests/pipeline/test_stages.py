"""dvc.yaml and the stage scripts: each stage depends on the digests of exactly the code that it runs."""

import ast
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from dvc.stage.cache import _get_cache_hash
from ruamel.yaml import YAML

from harveyseg.classes import HARVEY25
from harveyseg.data.class_lists import stored_classes
from harveyseg.pipeline.code import PACKAGE, PER_MODEL, STAGES_THAT_READ_MLFLOW, stage_files
from helpers.paths import ROOT
from helpers.small_disk import small_disk

DEFINITION = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")
STAGES: dict[str, dict[str, Any]] = DEFINITION["stages"]
NETWORKS = [path.stem for path in sorted((PACKAGE / "models" / "networks").glob("[!_]*.py"))]
DIGESTS = {"train": "data/code/train/${item.model}.json", "evaluate": "data/code/evaluate/${item.model}.txt"}
"""Of the stages with a file for each model; the others have `data/code/<stage>.txt`."""
CLASSES = "data/code/classes.json"
"""The list of classes, by which `download` reads the masks; the user's file is a dependency of `code` alone."""
CONFIG_DIGESTS = "data/code/train.json"
"""The digests of the trainings' files, one of which is a parameter of each training."""


def script(stage: str) -> Path:
    return ROOT / "stages" / f"{stage.replace('-', '_')}.py"


def test_there_is_one_script_for_each_stage() -> None:
    assert {script(stage).name for stage in STAGES} == {path.name for path in (ROOT / "stages").glob("*.py")}


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "code"])
def test_a_stage_depends_on_its_own_digests(stage: str) -> None:
    digests = [dep for dep in STAGES[stage]["deps"] if dep.startswith("data/code")]
    if stage == "train":
        assert (digests, STAGES[stage]["params"]) == ([], [{CONFIG_DIGESTS: ["${item.model}"]}])
    else:
        classes = [CLASSES] if stage == "download" else []
        assert digests == [*classes, DIGESTS.get(stage, f"data/code/{stage}.txt")]


def test_no_setting_is_lost_from_the_keys_of_dvcs_run_cache() -> None:
    # DVC leaves parameters called `size` and `nfiles` out of them, unless a stage names them with their section.
    named = {param for stage in STAGES.values() for param in stage["params"] if isinstance(param, str)}
    settings = re.findall(r"^\| `([\w.-]+)` \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)
    assert {"resize-cache.size", "inference.window", "width"} <= set(settings)
    for setting in settings:
        parameter = setting if setting in named else setting.rpartition(".")[2]
        keys = {_get_cache_hash({"params": {"params.yaml": {parameter: value}}}) for value in (1, 2)}
        assert len(keys) == 2, setting


def test_no_stage_but_code_names_a_source_file() -> None:
    assert set(STAGES["code"]["deps"]) == {"${data.inputs}", "src", "stages"}
    for stage in STAGES.keys() - {"code"}:
        deps = STAGES[stage]["deps"]
        assert not [dep for dep in deps if dep.startswith(("src", "stages")) or dep.endswith(".py")], stage


def test_the_stage_code_writes_every_file_that_a_stage_depends_on(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text((ROOT / "params.yaml").read_text())
    main = runpy.run_path(str(script("code")))["main"]
    data = tmp_path / "data"
    (data / "code" / "train").mkdir(parents=True)
    (data / "code" / "train" / "removed.json").touch()  # by an earlier run: DVC leaves the folder as it is
    folders = {"out": data / "code", "models": data / "models", "predictions": data / "predictions"}
    main(params=params, scripts=ROOT / "stages", **folders)
    models = list(YAML(typ="safe", pure=True).load(params)["models"])
    expected = {f"data/code/{stage}.txt" for stage in STAGES.keys() - {"code", *DIGESTS}}
    expected |= {file.replace("${item.model}", model) for file in DIGESTS.values() for model in models}
    written = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert written == expected | {CLASSES, CONFIG_DIGESTS}
    assert stored_classes(data / "code") == HARVEY25
    configs = {model: tmp_path / DIGESTS["train"].replace("${item.model}", model) for model in models}
    digests: dict[str, Any] = {model: {sha256(path.read_bytes()).hexdigest(): {}} for model, path in configs.items()}
    assert json.loads((tmp_path / CONFIG_DIGESTS).read_text()) == digests
    for file in written - {
        CLASSES,
        CONFIG_DIGESTS,
        *(path.relative_to(tmp_path).as_posix() for path in configs.values()),
    }:
        for line in (tmp_path / file).read_text().splitlines():
            digest, name = line.split("  ")
            path = PACKAGE.parent / name if name.startswith("harveyseg/") else ROOT / name
            assert digest == sha256(path.read_bytes()).hexdigest(), f"{file}: {name}"


# Imports each script, and a network, as if it were the first, then what functions of the package import when they are
# called, and prints the package's files that then are loaded.
# What only observes is replaced by stubs: a stage does not depend on it, nor on what only it imports.
LOADED = """
import ast, importlib, importlib.abc, json, runpy, sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from unittest.mock import MagicMock

class Stub(ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()

class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    active = True

    def find_spec(self, name, path, target=None):
        if self.active and (name + ".").startswith("harveyseg.tracking."):
            return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return Stub(spec.name)

    def exec_module(self, module):
        pass

def own_files():
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "harveyseg"]
    return sorted(module.__file__ for module in modules if not isinstance(module, Stub))

def call_imports_in_functions(file):
    functions = [node for node in ast.walk(ast.parse(open(file).read())) if isinstance(node, ast.FunctionDef)]
    for node in [inner for function in functions for inner in ast.walk(function)]:
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "harveyseg":
            exec(ast.unparse(node), {})

stubs = Stubs()
sys.meta_path.insert(0, stubs)
loaded = []
for script, network, observed in json.loads(sys.argv[1]):
    for name in [name for name in sys.modules if name.partition(".")[0] == "harveyseg"]:
        del sys.modules[name]
    stubs.active = not observed
    runpy.run_path(script)
    if network:
        importlib.import_module("harveyseg.models.networks." + network)
    called = set()
    while files := set(own_files()) - called:
        called |= files
        for file in files:
            call_imports_in_functions(file)
    loaded.append(own_files())
print(json.dumps(loaded))
"""


def test_digests_are_of_exactly_what_python_loads() -> None:
    cases = [(stage, network) for stage in STAGES for network in (NETWORKS if stage in PER_MODEL else [None])]
    arguments = [(str(script(stage)), network, stage in STAGES_THAT_READ_MLFLOW) for stage, network in cases]
    command = [sys.executable, "-c", LOADED, json.dumps(arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    for (stage, network), loaded in zip(cases, json.loads(done.stdout), strict=True):
        files = [str(path) for path in stage_files(stage, ROOT / "stages", [network] if network else [])]
        assert files == [str(script(stage)), *loaded], (stage, network)


def test_an_ensemble_with_other_experiments_runs_depends_on_every_network(tmp_path: Path) -> None:
    main = runpy.run_path(str(script("code")))["main"]
    digests = tmp_path / "code" / "ensemble.txt"
    for runs, networks in (([], set()), (["0a1b"], {f"harveyseg/models/networks/{name}.py" for name in NETWORKS})):
        params = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
        params["models"] = {"unet": params["models"]["unet"]}
        params["ensemble"]["runs"] = runs
        YAML(typ="safe", pure=True).dump(params, tmp_path / "params.yaml")
        folders = {"out": tmp_path / "code", "models": tmp_path / "models", "predictions": tmp_path / "predictions"}
        main(params=tmp_path / "params.yaml", scripts=ROOT / "stages", **folders)
        names = {line.split("  ")[1] for line in digests.read_text().splitlines()}
        assert {name for name in names if "/networks/" in name} - {"harveyseg/models/networks/__init__.py"} == networks


def test_what_digests_cannot_see_is_not_there() -> None:
    """A module that is imported by name, other than a network, and a file that a stage reads from the package."""
    by_name = {
        path.relative_to(PACKAGE).as_posix()
        for stage in STAGES
        for path in stage_files(stage, ROOT / "stages", NETWORKS if stage in PER_MODEL else [])[1:]
        if re.search(r"import_module|__import__|importlib\.resources|__file__", path.read_text(encoding="utf-8"))
    }
    # The names for users, which no stage asks for; networks; packaged weights, whose digest is part of the settings;
    # this package's folder.
    assert by_name == {"__init__.py", "models/__init__.py", "models/packaged/__init__.py", "pipeline/code.py"}


def test_a_stage_imports_no_other_script(tmp_path: Path) -> None:
    shutil.copy(ROOT / "stages" / "run", tmp_path / "run")
    (tmp_path / "code.py").write_text("raise SystemExit('not the module of the standard library')\n")
    (tmp_path / "split.py").write_text("import code\nprint(code.InteractiveConsole.__name__)\n")
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix}
    command = [str(tmp_path / "run"), "split"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "InteractiveConsole\n"


@pytest.mark.parametrize("stage", STAGES)
def test_scripts_hold_one_function_and_show_its_options(
    stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = ast.parse(script(stage).read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert [function.name for function in functions] == ["main"]
    # In this process: a new one for each stage would spend minutes on imports.
    monkeypatch.setattr(sys, "argv", [str(script(stage)), "--help"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("harveyseg.logs.configure_logging", lambda: None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script(stage)), run_name="__main__")
    assert ended.value.code == 0
    help_text = capsys.readouterr().out
    docstring = ast.get_docstring(functions[0])
    assert docstring is not None
    assert docstring.split()[0] in help_text


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
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True, timeout=600)
    (tmp_path / "bin" / "harveyseg").symlink_to(foreign)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=600)
    assert done.returncode == 9


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_dvc_called_by_its_path_runs_stages_in_its_own_environment(tmp_path: Path, shell: str) -> None:
    """No environment is active, and no `python` is on the path: the one that runs dvc is taken."""
    if not Path(shell).exists():
        pytest.skip(f"there is no {shell}")
    own, tools, stages = (tmp_path / name for name in ("an env/bin", "tools", "stages"))
    for folder in (own, tools, stages):
        folder.mkdir(parents=True)
    (own / "python").symlink_to(sys.executable)
    (own / "harveyseg").touch(mode=0o755)
    for name in ("dirname", "head", "sed", "tr"):
        (tools / name).symlink_to(str(shutil.which(name)))
    shutil.copy(ROOT / "stages" / "run", stages)
    (stages / "probe.py").write_text("import sys; print(sys.executable)")
    # As DVC runs a stage: its Python starts a shell, which may stay.
    for command in ("stages/run probe", "stages/run probe; :"):
        code = f"import subprocess, sys; sys.exit(subprocess.run([{shell!r}, '-c', {command!r}]).returncode)"
        done = subprocess.run(
            [str(own / "python"), "-c", code],
            cwd=tmp_path,
            env={"PATH": str(tools), "DVC_ROOT": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.stdout.strip() == str(own / "python"), done.stderr


def test_a_full_disk_leaves_no_half_compiled_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "24m") as disk:
        for name in ("src/harveyseg", "stages"):
            shutil.copytree(ROOT / name, disk / name, ignore=shutil.ignore_patterns("__pycache__"))
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 65_536))
        command = ["stages/run", "split", "--help"]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment["VIRTUAL_ENV"] = str(Path(sys.executable).parents[1])
        for _ in range(2):  # the second time Python reads what the first one left
            done = subprocess.run(
                command, cwd=disk, env=environment, capture_output=True, text=True, check=False, timeout=600
            )
            assert done.returncode == 0, done.stderr


def test_a_stage_uses_the_code_of_its_own_checkout(tmp_path: Path) -> None:
    package = tmp_path / "src" / "harveyseg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('the copy was used')\n")
    (tmp_path / "stages").mkdir()
    for name in ("run", "code.py"):
        (tmp_path / "stages" / name).write_bytes((ROOT / "stages" / name).read_bytes())
    (tmp_path / "stages" / "run").chmod(0o755)
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix}
    command = [str(tmp_path / "stages" / "run"), "code"]
    done = subprocess.run(
        command, cwd=tmp_path.parent, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.stderr == "the copy was used\n"
