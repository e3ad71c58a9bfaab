"""docs/settings.md: up to date, and every key of params.yaml is on it with a meaning."""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from harveyseg.config.settings import load
from helpers.paths import ROOT

PAGE = ROOT / "docs" / "settings.md"
ROW = re.compile(r"^\| `([\w.-]+)` \| .+ \| .* \| (.*) \|$", re.MULTILINE)


def keys(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_it_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "docs/settings_page.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_it_has_every_key_of_params_yaml_and_says_what_it_means() -> None:
    meanings = dict(ROW.findall(PAGE.read_text(encoding="utf-8")))
    sections = {name: value for name, value in load(ROOT / "params.yaml").items() if name not in {"folds", "models"}}
    assert set(keys(sections)) <= meanings.keys()
    assert [name for name, meaning in meanings.items() if not meaning] == []
