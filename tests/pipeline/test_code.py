"""The files that a module is made of, against what Python itself loads when the module is imported."""

import ast
import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from harveyseg.errors import HarveysegError
from harveyseg.pipeline.code import (
    PACKAGE,
    closure,
    code_digests,
    format_digests,
    module_closure,
    require_digested,
    stage_files,
)
from helpers.paths import ROOT

# Imports each module as if it were the first and prints the package's files that then are loaded.
LOADED = """
import importlib, json, sys
loaded = {}
for module in sys.argv[1:]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "harveyseg"]:
        del sys.modules[name]
    importlib.import_module(module)
    loaded[module] = sorted(sys.modules[name].__file__ for name in sys.modules if name.partition(".")[0] == "harveyseg")
print(json.dumps(loaded))
"""
NETWORKS = PACKAGE / "models" / "networks"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports_in_functions(path: Path) -> bool:
    tree = ast.parse(path.read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    inner = (node for function in functions for node in ast.walk(function))
    return any(isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harveyseg") for node in inner)


@pytest.mark.slow
def test_they_are_what_python_loads() -> None:
    command = [sys.executable, "-c", LOADED, *MODULES]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    for module, loaded in json.loads(done.stdout).items():
        files = module_closure(module)
        if any(imports_in_functions(path) for path in files):
            assert {Path(file) for file in loaded} <= set(files), module  # the rest is loaded when it is called
        else:
            assert [str(path) for path in files] == loaded, module


def test_what_functions_import_belongs_to_it() -> None:
    assert PACKAGE / "evaluation" / "submission.py" in module_closure("harveyseg.cli")
    code = "import sys, harveyseg.cli; print('harveyseg.evaluation.submission' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_one_network_is_not_made_of_another() -> None:
    unet = module_closure("harveyseg.models.networks.unet")
    assert {NETWORKS / "unet.py", NETWORKS / "__init__.py", PACKAGE / "models" / "blocks.py"} < set(unet)
    assert not {NETWORKS / name for name in ("attention_unet.py", "unetplusplus.py", "smp.py")} & set(unet)


def test_a_script_is_no_part_of_its_closure(tmp_path: Path) -> None:
    script = tmp_path / "stage.py"
    script.write_text(
        "import json, harveyseg.errors\nfrom harveyseg import classes\nfrom harveyseg.classes import slug\n"
    )
    assert closure(script) == [PACKAGE / name for name in ("__init__.py", "classes.py", "errors.py")]


def test_relative_imports_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {
        "__init__.py": "",
        "rgb.py": "from .maps import roofs\nfrom .maps.roads import width\nfrom . import water\n",
        "maps/__init__.py": "",
        "maps/roofs.py": "from .. import pools\nfrom ..errors import Error\n",
        "maps/roads.py": "width = 2\n",
        **dict.fromkeys(("water.py", "pools.py", "errors.py", "unused.py"), "class Error(Exception): ...\n"),
    }
    package = tmp_path / "harveyseg"
    for name, text in sources.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    command = [sys.executable, "-c", LOADED, "harveyseg.rgb"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    monkeypatch.setattr("harveyseg.pipeline.code.PACKAGE", package)
    assert [str(path) for path in closure(package / "rgb.py")] == json.loads(done.stdout)["harveyseg.rgb"]


def test_a_module_can_be_left_out_with_all_that_only_it_imports(tmp_path: Path) -> None:
    script = tmp_path / "stage.py"
    script.write_text("from harveyseg.record import read_run\nfrom harveyseg.classes import slug\n")
    # record imports files, and files imports errors.
    names = ("__init__.py", "classes.py", "errors.py", "files.py", "record.py")
    assert closure(script) == [PACKAGE / name for name in names]
    assert closure(script, without={"harveyseg.record"}) == [PACKAGE / name for name in ("__init__.py", "classes.py")]


def test_an_unknown_module() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"harveyseg\.models\.networks\.hrnet"):
        module_closure("harveyseg.models.networks.hrnet")


def test_digests_are_the_files_and_the_same_in_every_checkout(tmp_path: Path) -> None:
    files = module_closure("harveyseg.models.networks.unet")
    digests = code_digests(files)
    digest = sha256((NETWORKS / "unet.py").read_bytes()).hexdigest()
    assert digests["harveyseg/models/networks/unet.py"] == digest
    assert len(digests) == len(files)
    shutil.copytree(PACKAGE, tmp_path / "harveyseg", ignore=shutil.ignore_patterns("__pycache__"))
    call = "code.code_digests(code.module_closure('harveyseg.models.networks.unet'))"
    program = f"import json; from harveyseg.pipeline import code; print(json.dumps({call}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == digests


def test_sha256sum_can_check_what_is_written(tmp_path: Path) -> None:
    digests = code_digests(module_closure("harveyseg.models.networks.unet"))
    (tmp_path / "unet.txt").write_text(format_digests(digests))
    subprocess.run(["sha256sum", "--check", "--quiet", tmp_path / "unet.txt"], cwd=PACKAGE.parent, check=True)


def test_a_stage_refuses_to_run_other_code_than_was_digested(tmp_path: Path) -> None:
    scripts = tmp_path / "stages"
    shutil.copytree(ROOT / "stages", scripts)
    digests = tmp_path / "postprocess.txt"
    with pytest.raises(HarveysegError, match=r"postprocess\.txt: no such file\. Run `dvc repro -f code`"):
        require_digested(digests, "postprocess", scripts)
    digests.write_text(format_digests(code_digests(stage_files("postprocess", scripts))))
    expected = sha256(digests.read_bytes()).hexdigest()
    assert require_digested(digests, "postprocess", scripts) == expected
    script = scripts / "postprocess.py"
    script.write_text(script.read_text() + "# edited\n")
    with pytest.raises(HarveysegError, match=r"^stages/postprocess\.py: changed since the stage `code` ran"):
        require_digested(digests, "postprocess", scripts)
