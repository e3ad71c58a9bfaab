"""A study's table from a real MLflow: means and spreads worked out by hand; what must not be mixed stays apart."""

import math
import re
from pathlib import Path

import pandas as pd
import pytest

from harveyseg.errors import HarveysegError
from harveyseg.reproduction.export import load_study_runs
from harveyseg.reproduction.studies import StudyRecipe, find_study, read_recipe
from harveyseg.reproduction.tables import (
    Variant,
    describe_variants,
    find_variants,
    is_within_spread,
    study_markdown,
    study_table,
    write_study,
)
from harveyseg.tracking.client import Tracker
from helpers.studies import log_trial, make_variant


def variants(study: str, recipe: StudyRecipe, tracker: Tracker) -> list[Variant]:
    return find_variants(study, load_study_runs(recipe, tracker))


def test_means_over_folds_and_seeds_and_the_spread_of_the_seeds(
    tracker: Tracker, project: Path, recipe: StudyRecipe
) -> None:
    log_trial(tracker, project, recipe, "softmax", "on", 0, (0.50, 0.70))  # 0.60
    log_trial(tracker, project, recipe, "softmax", "on", 1, (0.61, 0.79))  # 0.70
    log_trial(tracker, project, recipe, "softmax", "off", 0, (0.61, 0.65))  # 0.63
    table = study_table(find_study("softmax"), variants("softmax", recipe, tracker)).set_index("variant")
    assert list(table.index) == ["off", "on"]
    assert table["seeds"].tolist() == [1, 2]
    assert table["argmax_score"].tolist() == pytest.approx([0.63, 0.65])
    assert table.at["on", "spread"] == pytest.approx(0.1 / math.sqrt(2))
    assert math.isnan(float(table["spread"].iloc[0]))
    assert table["behind"].tolist() == pytest.approx([0.02, 0.0])
    assert table["score"].tolist() == pytest.approx([0.68, 0.70])
    # 0.02 behind is less than the spread of 0.07.
    assert table["note"].tolist() == ["within the spread", "best"]
    # Of three epochs the second one's weights were written; the last one's losses are 3 / 3 and 3.3 / 3.
    assert table["train_loss"].tolist() == pytest.approx([3 / 2, 3 / 2])
    assert table["val_loss"].tolist() == pytest.approx([3.3 / 2, 3.3 / 2])


def test_a_difference_above_the_spread_has_no_mark(tracker: Tracker, project: Path, recipe: StudyRecipe) -> None:
    for seed, score in enumerate((0.70, 0.71)):
        log_trial(tracker, project, recipe, "softmax", "on", seed, (score, score))
    log_trial(tracker, project, recipe, "softmax", "off", 0, (0.60, 0.60))
    off, on = variants("softmax", recipe, tracker)
    notes = study_table(find_study("softmax"), [off, on])["note"].tolist()
    assert notes == ["1 of 1 seeds collapsed to one class", "best"]
    assert is_within_spread(on, off) is False


def test_with_one_seed_no_spread_is_known(tracker: Tracker, project: Path, recipe: StudyRecipe) -> None:
    log_trial(tracker, project, recipe, "softmax", "on", 0, (0.7, 0.7))
    log_trial(tracker, project, recipe, "softmax", "off", 0, (0.6, 0.6))
    off, on = variants("softmax", recipe, tracker)
    assert is_within_spread(off, on) is None
    assert "All numbers are means over 2 folds and over the seeds. " in describe_variants([off, on])
    single = [make_variant("on", 0.7), make_variant("off", 0.6)]
    assert "folds" not in describe_variants(single)
    assert "Seeds of each variant, of those that learnt: 1; their spread is unknown" in describe_variants([off, on])


def in_precision(variant: Variant, *precisions: str) -> Variant:
    """The same, each seed computed in one of these."""
    return Variant(
        variant.label,
        tuple(
            tuple(run.model_copy(update={"environment": {"precision": precision}}) for run in folds)
            for folds, precision in zip(variant.seeds, precisions, strict=True)
        ),
    )


def test_variants_that_were_computed_in_different_precisions_are_said_to_be() -> None:
    off, on, three = make_variant("off", 0.6, 0.61), make_variant("on", 0.7, 0.71), make_variant("on", 0.7, 0.71, 0.72)
    alike = describe_variants([in_precision(off, "fp32", "fp32"), in_precision(three, "fp32", "fp32", "fp32")])
    assert alike.endswith(". Computed with cpu fp32.")
    alike = describe_variants([in_precision(off, "fp32", "bf16"), in_precision(on, "fp32", "bf16")])
    assert alike.endswith(". Computed with cpu bf16 (2 runs), cpu fp32 (2 runs).")
    mixed = describe_variants([in_precision(off, "fp32", "bf16"), in_precision(on, "bf16", "fp32")])
    assert mixed.endswith(
        ". **The variants were not computed alike:** off: cpu bf16 (1 run), cpu fp32 (1 run); "
        "on: cpu bf16 (1 run), cpu fp32 (1 run)."
    )
    mixed = describe_variants([in_precision(off, "bf16", "bf16"), in_precision(three, "bf16", "fp32", "bf16")])
    assert mixed.endswith(
        ". **The variants were not computed alike:** off: cpu bf16; on: cpu bf16 (2 runs), cpu fp32 (1 run)."
    )


def test_a_seed_that_collapsed_was_not_compared_so_its_precision_does_not_count() -> None:
    off, on = make_variant("off", 0.6, 0.61), make_variant("on", 0.7, 0.71)
    collapsed = {"val/false_positive_classes": 1.0, "val/missed_classes": 9.6, "val/argmax_score": 0.6}
    first, second = in_precision(on, "fp32", "bf16").seeds
    broken = tuple(run.model_copy(update={"metrics": run.metrics | collapsed}) for run in first)
    on = Variant("on", (broken, second))
    assert on.n_collapsed == 1
    alike = describe_variants([in_precision(off, "bf16", "bf16"), on])
    assert alike.endswith(". Computed with cpu bf16.")
    mixed = describe_variants([in_precision(off, "fp32", "bf16"), on])
    assert mixed.endswith("off: cpu bf16 (1 run), cpu fp32 (1 run); on: cpu bf16.")


def test_a_seed_without_all_folds_does_not_count(tracker: Tracker, project: Path, recipe: StudyRecipe) -> None:
    log_trial(tracker, project, recipe, "softmax", "on", 0, (0.7, 0.7))
    log_trial(tracker, project, recipe, "softmax", "on", 1, (0.1,))
    off, on = variants("softmax", recipe, tracker)
    assert on.values("val/argmax_score") == pytest.approx([0.7])
    assert study_table(find_study("softmax"), [off, on])["note"].tolist() == ["not run", "best"]


def test_of_a_repeated_training_the_newest_counts(tracker: Tracker, project: Path, recipe: StudyRecipe) -> None:
    log_trial(tracker, project, recipe, "softmax", "on", 0, (0.7, 0.7), at=1000)
    log_trial(tracker, project, recipe, "softmax", "on", 0, (0.5, 0.5), at=0)
    assert variants("softmax", recipe, tracker)[1].mean("val/argmax_score") == pytest.approx(0.7)


def test_runs_of_another_recipe_stay_out(tracker: Tracker, project: Path, recipe: StudyRecipe) -> None:
    log_trial(tracker, project, recipe, "softmax", "on", 0, (0.7, 0.7))
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("lr: 0.003", "lr: 0.004"))
    changed = read_recipe(project / "params.yaml")
    assert not any(variant.seeds for variant in variants("softmax", changed, tracker))
    with pytest.raises(HarveysegError, match=r"study softmax: MLflow has no finished run .*`harveyseg study softmax`"):
        write_study("softmax", load_study_runs(changed, tracker), project / "reports")
    assert not (project / "reports").exists()


def test_the_reports_figures_stand_beside_ours(tracker: Tracker, project: Path, recipe: StudyRecipe) -> None:
    log_trial(tracker, project, recipe, "architecture", "unetplusplus", 0, (0.7, 0.7))
    table = study_table(find_study("architecture"), variants("architecture", recipe, tracker)).set_index("variant")
    assert table.at["unetplusplus", "report_val_loss"] == 2.10
    assert table.at["unetplusplus", "report_score"] == 0.66
    assert table.at["unet", "report_score"] == 0.70925
    assert table["report_score"].isna().sum() == 4  # of EfficientNet-B1 and the three stand-ins it states none


def test_files_and_curves(tracker: Tracker, project: Path, recipe: StudyRecipe) -> None:
    log_trial(tracker, project, recipe, "epochs", "25", 0, (0.7, 0.7))
    shown = write_study("epochs", load_study_runs(recipe, tracker), project / "reports")
    assert (project / "reports" / "study-epochs.md").read_text() == shown
    assert re.search(r"^\| 25 +\| +1 \| +0\.7000 \|", shown, re.MULTILINE)
    read = pd.read_csv(project / "reports" / "study-epochs.csv")
    assert read["argmax_score"].tolist()[1] == 0.7
    assert read["note"].tolist() == ["not run", "best", "not run", "not run"]
    assert (project / "reports" / "study-epochs.png").read_bytes().startswith(b"\x89PNG")
    run = variants("epochs", recipe, tracker)[1].seeds[0][0]
    assert run.curves["train_loss"] == {1: 3.0, 2: 1.5, 3: 1.0}


def test_markdown_leaves_out_what_nothing_fills() -> None:
    frame = pd.DataFrame(
        {"variant": ["a", "b"], "seeds": [1, 2], "score": [0.5, math.nan], "behind": math.nan, "miou": 1, "note": ""}
    )
    assert [re.findall(r"[^| ]+", line) for line in study_markdown(frame).splitlines()] == [
        ["variant", "seeds", "score", "note"],
        ["-----------", "--------:", "--------:", "--------"],
        ["a", "1", "0.5000"],
        ["b", "2"],
    ]


def test_a_seed_that_collapsed_to_one_class_is_left_out(tracker: Tracker, project: Path, recipe: StudyRecipe) -> None:
    log_trial(tracker, project, recipe, "softmax", "on", 0, (0.70, 0.70))
    log_trial(tracker, project, recipe, "softmax", "on", 1, (0.60, 0.60))
    off, on = variants("softmax", recipe, tracker)
    row = study_table(find_study("softmax"), [off, on]).set_index("variant").loc["on"]
    assert (row["seeds"], row["argmax_score"]) == (1, pytest.approx(0.70))
    assert row["note"] == "best; 1 of 2 seeds collapsed to one class, left out"
