"""What experiments changed and by how much they moved the score, from rows as `dvc.api.exp_show` gives them."""

from typing import Any

import pytest

from harveyseg.overview.experiments import compare_rows

SETTINGS = {"train.lr": 0.003, "train.epochs": 20, "folds": "[0]", "models.unet.network": "unet"}
COMMITTED: dict[str, Any] = {
    "Experiment": None, "rev": "main", "typ": "baseline", "parent": None, "State": None, "Created": None,
    "ensemble": 0.7, "unet": 0.6, "train.lr": 0.003, "train.epochs": 20.0, "folds": "[0]",
    "models.unet.network": "unet", "data/models": "0a1b.dir",
}  # fmt: skip


def row(name: str, **values: Any) -> dict[str, Any]:
    return (
        COMMITTED | {"Experiment": name, "rev": "c0ffee1", "typ": "branch_commit", "data/models": "ffff.dir"} | values
    )


def test_the_best_is_on_top_and_changes_are_of_settings_alone() -> None:
    rows = [
        COMMITTED | {"rev": "workspace"},
        COMMITTED,
        row("slow", ensemble=0.65, **{"train.lr": 1e-05}),
        row("waiting", State="Queued", ensemble=None, unet=None, **{"train.epochs": 40.0}),
        row("wide", ensemble=0.72, unet=0.5, **{"models.wide.network": "unet", "train.epochs": 10.0}),
        row("broken", State="Failed", ensemble="!", unet="!", folds="[0, 1]"),
    ]
    experiments = compare_rows(rows, SETTINGS)
    assert [(experiment.name, experiment.state) for experiment in experiments.experiments] == [
        ("wide", ""), ("slow", ""), ("waiting", "queued"), ("broken", "failed")
    ]  # fmt: skip
    wide, slow, waiting, broken = experiments.experiments
    assert wide.changes == {"train.epochs": ("20", "10"), "models.wide.network": ("null", "unet")}
    assert slow.changes == {"train.lr": ("0.003", "1e-05")}
    assert waiting.changes == {"train.epochs": ("20", "40")}
    assert broken.changes == {"folds": ("[0]", "[0, 1]")}
    assert [wide.gain, slow.gain] == [pytest.approx(0.02), pytest.approx(-0.05)]
    assert waiting.gain is None
    assert experiments.best is wide
    assert list(experiments.lines()) == [
        "  main      0.7000           as committed",
        "  wide      0.7200  +0.0200  train.epochs 20 -> 10, models.wide.network null -> unet; unet -0.1000",
        "  slow      0.6500  -0.0500  train.lr 0.003 -> 1e-05",
        "  waiting   queued           train.epochs 20 -> 40",
        "  broken    failed           folds [0] -> [0, 1]",
    ]


def test_models_whose_own_score_moved_are_named_the_furthest_first() -> None:
    """Also where the ensemble does not use them: its score stays, and the experiment did something nevertheless."""
    committed = COMMITTED | {f"models.{name}.network": "unet" for name in "abcd"} | dict.fromkeys("abcd", 0.5)
    moved = {"a": 0.51, "b": 0.48, "c": 0.50004, "d": 0.505, "unet": 0.6001, "all_empty": 0.1}
    rows = [committed | {"rev": "workspace"}, committed, row("some", **(committed | moved | {"typ": "branch_commit"}))]
    (experiment,) = compare_rows(rows, SETTINGS).experiments
    assert experiment.gain == 0
    assert experiment.describe() == "no setting; b -0.0200, a +0.0100, d +0.0050 and 1 more model"


def test_what_a_model_does_not_override_is_the_value_of_all_models() -> None:
    rows = [COMMITTED | {"rev": "workspace"}, COMMITTED, row("one", **{"models.unet.train.epochs": 4.0})]
    (experiment,) = compare_rows(rows, SETTINGS).experiments
    assert experiment.changes == {"models.unet.train.epochs": ("20", "4")}


def test_without_a_committed_result_nothing_is_better() -> None:
    rows = [COMMITTED | {"rev": "workspace"}, COMMITTED | {"ensemble": "!"}, row("one", ensemble=0.72)]
    experiments = compare_rows(rows, SETTINGS)
    assert experiments.score is None
    assert experiments.best is None
    assert experiments.experiments[0].describe() == "no setting"


def test_an_experiment_that_scores_less_is_not_recommended() -> None:
    rows = [COMMITTED | {"rev": "workspace"}, COMMITTED, row("worse", ensemble=0.69)]
    assert compare_rows(rows, SETTINGS).best is None


def test_a_line_names_at_most_four_settings() -> None:
    settings = {f"train.x{number}": 0.0 for number in range(6)}
    committed = COMMITTED | settings
    rows = [committed | {"rev": "workspace"}, committed, row("many", **dict.fromkeys(settings, 1.0))]
    (experiment,) = compare_rows(rows, settings).experiments
    assert len(experiment.changes) == 6
    assert experiment.describe() == ", ".join(f"train.x{number} 0 -> 1" for number in range(4)) + " and 2 more"


def test_the_experiment_that_is_in_the_workspace_is_marked() -> None:
    wide, steps = row("wide", ensemble=0.72, folds="[1]"), row("steps", ensemble=0.71)
    other = row("other", ensemble=0.72, folds="[0, 1]")

    def marked(workspace: dict[str, Any]) -> list[str]:
        rows = [workspace | {"rev": "workspace", "typ": "baseline", "Experiment": None}, COMMITTED, other, wide, steps]
        return [
            line.split()[0] for line in compare_rows(rows, SETTINGS).lines() if line.endswith(" (in the workspace)")
        ]

    assert marked(wide) == ["wide"]
    assert marked(steps) == ["steps"]  # no setting that is known here differs, but the score does
    assert marked(COMMITTED) == []
    assert marked(wide | {"ensemble": 0.5}) == []
