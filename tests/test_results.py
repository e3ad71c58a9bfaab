"""RESULTS.md: each verdict from made-up evidence whose answer is known, and the whole file from a real MLflow."""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from harveyseg.errors import HarveysegError
from harveyseg.results import CLAIMS, TABLE_1, Evidence, Finding, _explanations, _ranking, write_results
from harveyseg.study import Base
from harveyseg.study_table import Variant
from harveyseg.tracking import TrackedRun, Tracker
from test_study_table import base, log
from test_tracking import migrated, plain_environment, project, tracker

__all__ = ["base", "migrated", "plain_environment", "project", "tracker"]  # fixtures


def variant(label: str, *scores: float, **metrics: float) -> Variant:
    """A variant with a seed for each score; of a metric's name `__` is the slash."""
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    runs = [
        TrackedRun(
            run_id=f"{label}-{score}-{seed}",
            status="FINISHED",
            started_ms=0,
            parameters={"train.softmax_before_loss": "true", "train.class_weights": "none"},
            metrics={"val/score": score, "val/empty_score": 0.6, "val/decided_score": score + 0.02, **named},
            tags={},
        )
        for seed, score in enumerate(scores)
    ]
    return Variant(label, tuple((run,) for run in runs))


FALLEN = {"val__false_claims": 0.3, "val__misses": 9.0}
"""Ended at one class: of 24 x (1 - 0.6) = 9.6 classes per photo 9 are missed, 0.3 are claimed wrongly: 0.9 claimed."""


def evidence(
    studies: Mapping[str, list[Variant]],
    curves: Mapping[str, Mapping[int, float]] | None = None,
    shares: Mapping[int, float] | None = None,
    weights: str | None = "imagenet",
    method: str = "auto",
) -> Evidence:
    named = {study: {one.label: one for one in found} for study, found in studies.items()}
    recipe = {"train": {"encoder_weights": weights, "seed": 2}, "decide": {"method": method}}
    return Evidence(recipe, named, curves or {}, shares or {})


def finding(says: str, found: Evidence) -> Finding:
    """The finding on the claim that begins so."""
    (claim,) = (claim for claim in CLAIMS if claim.says.startswith(says))
    return claim.test(found)


NOISE = variant("0.1", 0.60, 0.62)
"""Its spread is 0.0141."""


@pytest.mark.parametrize(
    ("off", "on", "verdict"),
    [(0.60, 0.62, "confirmed"), (0.62, 0.60, "not confirmed")],
)
def test_a_gain_counts_above_the_noise(off: float, on: float, verdict: str) -> None:
    found = evidence({"softmax": [variant("off", off), variant("on", on)], "dropout": [NOISE]})
    assert finding("Trial 4", found).verdict == verdict
    assert finding("Trial 4", found).measured == f"on {on:.4f}; off {off:.4f} ({on - off:+.4f})"


def test_a_gain_below_the_noise_is_named_as_such() -> None:
    found = evidence({"softmax": [variant("off", 0.60), variant("on", 0.61)], "dropout": [NOISE]})
    assert finding("Trial 4", found) == Finding("on 0.6100; off 0.6000 (+0.0100, within the noise)", "not confirmed")


def test_without_a_known_spread_nothing_is_judged() -> None:
    found = evidence({"softmax": [variant("off", 0.5), variant("on", 0.7)]})
    assert finding("Trial 4", found).verdict == "not testable here"
    assert "`harveyseg study softmax --seeds 3`" in finding("Trial 4", found).measured


def test_what_has_not_run_says_how_to_run_it() -> None:
    for claim in CLAIMS:
        found = claim.test(evidence({}))
        assert found.verdict == "not testable here"
        assert "`harveyseg study " in found.measured or "issing" in found.measured or "`dvc repro`" in found.measured


@pytest.mark.parametrize(("report", "verdict"), [(0.61, "confirmed"), (0.55, "confirmed"), (0.64, "not confirmed")])
def test_class_weights_do_not_help_unless_the_reports_do(report: float, verdict: str) -> None:
    # What another formula brings is no statement of the report.
    weights = [variant("none", 0.60), variant("report", report), variant("enet", 0.70)]
    assert finding("Trial 2", evidence({"class_weights": weights, "dropout": [NOISE]})).verdict == verdict


def test_the_smaller_size_is_the_second() -> None:
    found = evidence({"size": [variant("512", 0.6), variant("256", 0.65)], "dropout": [NOISE]})
    assert finding("Trial 5", found) == Finding("256 0.6500; 512 0.6000 (+0.0500)", "confirmed")


@pytest.mark.parametrize(("rival", "verdict"), [(0.60, "confirmed"), (0.64, "not confirmed"), (0.70, "not confirmed")])
def test_unet_must_beat_the_best_of_the_others(rival: float, verdict: str) -> None:
    others = ["attention_unet", "unetplusplus", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3"]
    networks = [variant("unet", 0.65), variant("mobilenet_v2", rival), *(variant(name, 0.5) for name in others)]
    assert finding("U-Net from", evidence({"architecture": networks, "dropout": [NOISE]})).verdict == verdict
    # From random weights, encoders that the report pretrained test nothing.
    random = evidence({"architecture": networks, "dropout": [NOISE]}, weights=None)
    assert finding("U-Net from", random).verdict == "not testable here"
    assert finding("U-Net from", random).measured.endswith("Missing: ImageNet weights")
    # FCN and SegNet are not in the report's comparison.
    more = [*networks, variant("fcn", 0.9)]
    assert finding("U-Net from", evidence({"architecture": more, "dropout": [NOISE]})).verdict == verdict


def test_seeds_that_ended_at_one_class_are_left_out_and_counted() -> None:
    fallen, one = variant("on", 0.63, **FALLEN), variant("on", 0.70)
    off = variant("off", 0.60)
    nothing = finding("Trial 4", evidence({"softmax": [off, fallen], "dropout": [NOISE]}))
    assert nothing.verdict == "not testable here"
    assert "1 of 1 seeds ended at one class" in nothing.measured
    both = Variant("on", (*fallen.seeds, *one.seeds))
    half = evidence({"softmax": [off, both], "dropout": [NOISE]})
    assert finding("Trial 4", half) == Finding(
        "on 0.7000 without them (1 of 2 seeds ended at one class); off 0.6000 (+0.1000)", "confirmed"
    )
    # The difference between a seed that learnt and one that did not is no noise.
    assert half.noise == pytest.approx(0.02 / math.sqrt(2))
    rivals = [variant(name, 0.6, **FALLEN) for name in TABLE_1]
    networks = evidence({"architecture": [variant("unet", 0.65), *rivals], "dropout": [NOISE]})
    assert finding("U-Net from", networks).verdict == "not testable here"


def test_trainings_that_studies_share_count_once() -> None:
    shared, other = variant("on", 0.6), variant("off", 0.7)
    found = evidence({"softmax": [other, shared], "dropout": [shared]})
    assert [one.label for one in found.distinct] == ["off", "on"]
    assert len(found.runs) == 2
    more = Variant("on", (*shared.seeds, *variant("on", 0.61).seeds))  # with a second seed in one of the studies
    found = evidence({"softmax": [other, more], "dropout": [shared]})
    assert [len(one.seeds) for one in found.distinct] == [2, 1]


def test_the_order_of_table_1() -> None:
    order = ["mobilenet_v2", "efficientnet_b2", "unetplusplus", "attention_unet"]
    for names, verdict in ((order, "confirmed"), (order[::-1], "not confirmed")):
        found = [variant(name, 0.7 - 0.01 * rank, final__val_loss=2.5) for rank, name in enumerate(names)]
        assert finding("Table 1", evidence({"architecture": found})).verdict == verdict


def test_the_training_loss_of_a_double_softmax() -> None:
    on, off = variant("on", 0.6, final__train_loss=2.93), variant("off", 0.6, final__train_loss=1.1)
    assert finding("The best network's", evidence({"softmax": [on, off]})).verdict == "confirmed"
    off = variant("off", 0.6, final__train_loss=2.9)
    assert finding("The best network's", evidence({"softmax": [on, off]})).verdict == "not confirmed"


def test_three_classes_cover_half_of_the_pixels() -> None:
    assert finding("Grass", evidence({}, shares={5: 0.3, 6: 0.15, 23: 0.1})).verdict == "confirmed"
    assert finding("Grass", evidence({}, shares={5: 0.2, 6: 0.15, 23: 0.1})).verdict == "not confirmed"


def curve(lowest: int, slope: float = 0.01) -> dict[int, float]:
    """The losses of 35 epochs, lowest after this one and rising by ``slope`` an epoch away from it."""
    return {epoch: abs(epoch + 1 - lowest) * slope + 1 for epoch in range(35)}


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        (curve(22), "confirmed"),
        (curve(10), "not confirmed"),
        (curve(35), "not testable here"),  # it still falls
    ],
)
def test_the_optimum_is_read_off_the_curve(losses: dict[int, float], verdict: str) -> None:
    curves = {"val_loss": losses, "val_score": dict.fromkeys(range(35), 0.6)}
    found = finding("The optimum", evidence({"dropout": [NOISE], "epochs": [variant("35", 0.6)]}, curves))
    assert found.verdict == verdict
    lowest = min(losses, key=lambda epoch: losses[epoch]) + 1
    assert found.measured.startswith(f"lowest validation loss after epoch {lowest} of 35 (it moves by 0.0100 an epoch")


@pytest.mark.parametrize(
    ("slope", "last_rise", "score", "verdict"),
    [
        (0.01, 0.13, 0.6, "confirmed"),
        (0.01, 0.13, 0.5, "not confirmed"),  # the score falls as well
        (0.01, 0.005, 0.6, "not confirmed"),  # a rise smaller than what an epoch makes is none
    ],
)
def test_overfitting_is_a_rise_above_the_jitter(slope: float, last_rise: float, score: float, verdict: str) -> None:
    losses = curve(34, slope)
    losses[34] = losses[33] + last_rise
    scores = {**dict.fromkeys(range(35), 0.6), 34: score}
    found = evidence({"dropout": [NOISE]}, {"val_loss": losses, "val_score": scores})
    assert finding("The validation loss", found).verdict == verdict


@pytest.mark.parametrize(("pools", "verdict"), [(0.30, "confirmed"), (0.11, "not confirmed")])
def test_minorities_are_the_classes_below_one_percent(pools: float, verdict: str) -> None:
    shares = {0: 0.005, 1: 0.5, 3: 0.004, 4: 0.006, 7: 0.0}
    dice = {"val__dice/01_property_roof": 0.9, "val__dice/04_vehicle": 0.1}

    def network(label: str, *pools: float) -> Variant:
        seeds = [variant(label, 0.6 + value / 100, **dice, **{"val__dice/03_swimming_pool": value}) for value in pools]
        return Variant(label, tuple(folds for one in seeds for folds in one.seeds))

    found = evidence(
        {
            "architecture": [network("attention_unet", pools), network("unet", 0.1)],
            # Two seeds whose means over both minorities differ by 0.02: a spread of 0.0141.
            "dropout": [network("0.1", 0.1, 0.14)],
        },
        shares=shares,
    )
    both = {"architecture": [network("attention_unet", -0.1), network("unet", -0.1)]}  # means of 0
    assert finding("Attention helps minority", evidence(both, shares=shares)).verdict == "not testable here"
    # Roofs are no minority, and no photo holds solar panels.
    measured = finding("Attention helps minority", found).measured
    assert f"attention_unet {(pools + 0.1) / 2:.4f}, unet 0.1000 (noise: 0.0141)" in measured
    assert finding("Attention helps minority", found).verdict == verdict


@pytest.mark.parametrize(("ours", "verdict"), [(0.56, "confirmed"), (0.51, "not confirmed"), (0.40, "not confirmed")])
def test_borders_have_a_measure_and_a_noise_of_their_own(ours: float, verdict: str) -> None:
    def network(label: str, *borders: float) -> Variant:
        seeds = [variant(label, 0.6 + value / 100, **{"val__border_accuracy": value}) for value in borders]
        return Variant(label, tuple(folds for one in seeds for folds in one.seeds))

    networks = [network("attention_unet", ours), network("unet", 0.5)]
    found = finding(
        "Attention helps borders", evidence({"architecture": networks, "dropout": [network("0.1", 0.5, 0.53)]})
    )
    assert f"attention_unet {ours:.4f}, unet 0.5000 (noise: 0.0212)" in found.measured
    assert found.verdict == verdict
    alone = finding("Attention helps borders", evidence({"architecture": networks}))
    assert alone.verdict == "not testable here"
    # Runs of before that measure: the study has to run again.
    before = [variant("attention_unet", 0.6), variant("unet", 0.6)]
    assert finding("Attention helps borders", evidence({"architecture": before})).measured.startswith("not run")


@pytest.mark.parametrize(("mobile", "verdict"), [(0.020, "confirmed"), (0.035, "not confirmed")])
def test_mobilenet_must_be_faster_than_each_efficientnet(mobile: float, verdict: str) -> None:
    seconds = {"mobilenet_v2": mobile, "efficientnet_b1": 0.03, "efficientnet_b2": 0.04, "efficientnet_b3": 0.05}
    networks = [variant(name, 0.6, latency_seconds=value) for name, value in {**seconds, "unet": 0.01}.items()]
    found = finding("MobileNetV2", evidence({"architecture": networks}))
    assert f"mobilenet_v2 {1000 * mobile:.1f}, efficientnet_b1 30.0" in found.measured
    assert found.verdict == verdict
    assert finding("MobileNetV2", evidence({"architecture": networks[1:]})).verdict == "not testable here"


def test_the_noise_is_the_largest_spread() -> None:
    assert evidence({"dropout": [NOISE], "softmax": [variant("on", 0.5, 0.51)]}).noise == pytest.approx(
        0.02 / math.sqrt(2)
    )


def test_the_file_from_mlflow_alone(tracker: Tracker, project: Path, base: Base) -> None:
    for seed in (0, 1):
        log(tracker, project, base, "softmax", "on", seed, (0.70, 0.70 + seed / 100))
        log(tracker, project, base, "softmax", "off", seed, (0.59, 0.59))
    log(tracker, project, base, "epochs", "35", 0, (0.6, 0.6))
    out, figure = project / "RESULTS.md", project / "docs" / "curves.png"
    text = write_results(base, tracker, out, figure)
    assert out.read_text() == text == write_results(base, tracker, out, figure)
    assert "**Trainings:** 10, the last of 2026-09-2" in text
    assert "**Data:** demo; 2 of 3 folds" in text
    assert "photos of 128 pixels instead of 256" in text
    assert "| on 0.7025; off 0.5900 (+0.1125) | **confirmed** |" in text
    assert "Not run: `harveyseg study channels`." in text
    assert "![Losses of each epoch](docs/curves.png)" in text
    assert figure.exists()


def test_nothing_is_overwritten_when_nothing_has_run(tracker: Tracker, project: Path, base: Base) -> None:
    (project / "RESULTS.md").write_text("what was published")
    with pytest.raises(HarveysegError, match=r"no finished run of any study .*`harveyseg study softmax`"):
        write_results(base, tracker, project / "RESULTS.md", project / "docs" / "curves.png")
    assert (project / "RESULTS.md").read_text() == "what was published"


def test_what_lies_behind_says_no_more_than_was_tested() -> None:
    nothing = "\n".join(_explanations(evidence({})))
    for phrase in (
        "has not been tested: `harveyseg study softmax --seeds 3`",
        "`harveyseg study architecture` is missing",
    ):
        assert phrase in nothing
    off, on = variant("off", 0.60), variant("on", 0.605)
    even = "\n".join(_explanations(evidence({"softmax": [off, on], "dropout": [NOISE]})))
    assert "No difference beyond the noise" in even
    assert "Here they did not: 0 of the 1 seeds of the recipe ended so" in even
    networks = [variant("unet", 0.6), variant("mobilenet_v2", 0.7)]
    assert "`decide.method: auto` is missing" in _ranking(evidence({"architecture": networks}, method="argmax"))
    assert "leaves the ranking as it is" in _ranking(evidence({"architecture": networks}))
    assert "The rule adds +0.0200 on the average" in _ranking(evidence({"architecture": networks}))
