"""Which settings of a stage differ from those of its last run."""

from pathlib import Path

from harveyseg.config.lock import differing_settings
from harveyseg.config.settings import load


def test_each_setting_is_named_with_both_values(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(
        "stages:\n  ensemble:\n    params:\n      params.yaml:\n"
        "        folds: [0]\n        postprocess: {method: auto, old: 2}\n        inference.tta: none\n"
    )
    (tmp_path / "params.yaml").write_text(
        "folds: [0, 1]\npostprocess: {method: argmax, new: null}\ninference: {tta: none, threads: 3}\n"
    )
    values, lock = load(tmp_path / "params.yaml"), tmp_path / "dvc.lock"
    assert list(differing_settings(values, lock, "ensemble", "the last run").values()) == [
        "folds is [0, 1] in params.yaml and [0] in the last run",
        "postprocess.method is argmax in params.yaml and auto in the last run",
        "postprocess.old is absent in params.yaml and 2 in the last run",
        "postprocess.new is null in params.yaml and absent in the last run",
    ]
    assert differing_settings(values, lock, "submit", "the last run") == {}
