"""RESULTS.md: each verdict from made-up evidence whose answer is known, and the whole file from a real MLflow."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from harveyseg.errors import HarveysegError
from harveyseg.reproduction.results import CLAIMS, TABLE_1, Evidence, Finding, _explanations, _ranking, write_results
from harveyseg.reproduction.studies import Base
from harveyseg.reproduction.tables import Variant
from harveyseg.tracking.client import TrackedRun, Tracker
from helpers.studies import log


def variant(label: str, *scores: float, **metrics: float) -> Variant:
    """A variant with a seed for each score; of a metric's name `__` is the slash."""
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    runs = [
        TrackedRun(
            run_id=f"{label}-{score}-{seed}",
            status="FINISHED",
            started_ms=0,
            parameters={"train.loss.softmax_before_loss": "true", "train.class_weights": "none"},
            metrics={"val/argmax_score": score, "val/all_empty_score": 0.6, "val/score": score + 0.02, **named},
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
    recipe = {"train": {"encoder_weights": weights, "seed": 2}, "postprocess": {"method": method}}
    return Evidence(recipe, named, curves or {}, shares or {})


def finding(says: str, found: Evidence) -> Finding:
    """The finding on the claim that begins so."""
    (claim,) = (claim for claim in CLAIMS if claim.says.startswith(says))
    return claim.test(found)


NOISE = variant("0.1", 0.60, 0.62, 0.60, 0.62, 0.61)
"""Its deviation is 0.01 with 4 degrees of freedom, for which tables of Student's t give 2.776 at 97.5%."""
MARGIN = 0.0393
"""2.776 x 0.01 x sqrt(2): of a difference between two seeds."""


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(0.040, "confirmed"), (0.038, "not testable here"), (-0.038, "not testable here"), (-0.040, "not confirmed")],
)
def test_a_gain_counts_beyond_the_margin(gain: float, verdict: str) -> None:
    found = evidence({"softmax": [variant("off", 0.60), variant("on", 0.60 + gain)], "dropout": [NOISE]})
    shown = f"on {0.6 + gain:.4f}; off 0.6000 ({gain:+.4f}, margin {MARGIN:.4f})"
    missing = ". Missing: more seeds" if verdict == "not testable here" else ""
    assert finding("Trial 4", found) == Finding(f"{shown}{missing}", verdict)  # type: ignore[arg-type]


def test_more_seeds_make_the_margin_smaller() -> None:
    off, on = variant("off", 0.60, 0.60, 0.60), variant("on", 0.63, 0.63, 0.63)
    found = evidence({"softmax": [off, on], "dropout": [NOISE]})
    # The variance of 4 x 0.0001 is pooled over 4 + 2 + 2 degrees of freedom, for which t is 2.306.
    assert found.noise().deviation == pytest.approx(math.sqrt(0.0004 / 8))
    assert f"margin {2.306 * math.sqrt(0.0004 / 8 * 2 / 3):.4f}" in finding("Trial 4", found).measured
    assert finding("Trial 4", found).verdict == "confirmed"


def test_chance_is_seldom_confirmed() -> None:
    """Variants that differ by nothing but the seed: one in forty looks like a gain, one in forty like a loss."""
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(400):
        off, on = (variant(label, *rng.normal(0.6, 0.01, 3)) for label in ("off", "on"))
        verdicts.append(finding("Trial 4", evidence({"softmax": [off, on]})).verdict)
    assert 0.01 < verdicts.count("confirmed") / 400 < 0.05
    assert 0.01 < verdicts.count("not confirmed") / 400 < 0.05


def test_without_a_known_spread_nothing_is_judged() -> None:
    found = evidence({"softmax": [variant("off", 0.5), variant("on", 0.7)]})
    assert finding("Trial 4", found).verdict == "not testable here"
    assert "`harveyseg study softmax --seeds 3`" in finding("Trial 4", found).measured


def test_what_has_not_run_says_how_to_run_it() -> None:
    for claim in CLAIMS:
        found = claim.test(evidence({}))
        assert found.verdict == "not testable here"
        assert "`harveyseg study " in found.measured or "issing" in found.measured or "`dvc repro`" in found.measured


@pytest.mark.parametrize(
    ("report", "verdict"), [(0.61, "not testable here"), (0.55, "confirmed"), (0.65, "not confirmed")]
)
def test_class_weights_do_not_help_unless_the_reports_do(report: float, verdict: str) -> None:
    # What another formula brings is no statement of the report.
    weights = [variant("none", 0.60), variant("report", report), variant("enet", 0.70)]
    assert finding("Trial 2", evidence({"class_weights": weights, "dropout": [NOISE]})).verdict == verdict


def test_the_smaller_size_is_the_second() -> None:
    found = evidence({"size": [variant("512", 0.6), variant("256", 0.65)], "dropout": [NOISE]})
    measured = f"256 0.6500; 512 0.6000 (+0.0500, margin {MARGIN:.4f})"
    assert finding("Trial 5", found) == Finding(measured, "confirmed")
    smaller = evidence({"size": [variant("128", 0.6), variant("64", 0.65)], "dropout": [NOISE]})
    assert finding("Trial 5", smaller).measured.endswith("at these sizes")


@pytest.mark.parametrize(
    ("rival", "verdict", "random_verdict"),
    [
        (0.60, "confirmed", "not testable here"),
        (0.64, "not testable here", "not testable here"),
        # Without ImageNet the rival is handicapped, and still better.
        (0.70, "not confirmed", "not confirmed"),
    ],
)
def test_unet_must_beat_the_best_of_the_others(rival: float, verdict: str, random_verdict: str) -> None:
    others = ["attention_unet", "unetplusplus", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3"]
    networks = [variant("unet", 0.65), variant("mobilenet_v2", rival), *(variant(name, 0.5) for name in others)]
    assert finding("U-Net from", evidence({"architecture": networks, "dropout": [NOISE]})).verdict == verdict
    random = evidence({"architecture": networks, "dropout": [NOISE]}, weights=None)
    assert finding("U-Net from", random).verdict == random_verdict
    assert "ImageNet weights" in finding("U-Net from", random).measured
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
    shown = "on 0.7000 (1 of 2 seeds ended at one class; 0.6650 with them); off 0.6000 (+0.1000, margin 0.0393)"
    assert finding("Trial 4", half) == Finding(shown, "confirmed")
    # The difference between a seed that learnt and one that did not is no noise.
    assert half.noise().deviation == pytest.approx(0.01)
    # What learns seldom is no gain, however good it is then.
    seldom = Variant("on", (*variant("on", 0.4, **FALLEN).seeds, *one.seeds))
    found = finding("Trial 4", evidence({"softmax": [off, seldom], "dropout": [NOISE]}))
    assert found.verdict == "not confirmed"
    assert found.measured.endswith("with the seeds that ended at one class it is not so")
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


@pytest.mark.parametrize(
    ("step", "turned", "verdict", "random_verdict"),
    [
        (0.04, False, "confirmed", "not testable here"),
        (0.03, False, "not testable here", "not testable here"),
        (0.01, True, "not testable here", "not testable here"),
        # Two of the four began from random weights in the report, too: their order is tested in any case.
        (0.04, True, "not confirmed", "not confirmed"),
    ],
)
def test_the_order_of_table_1(step: float, turned: bool, verdict: str, random_verdict: str) -> None:
    names = ["mobilenet_v2", "efficientnet_b2", "unetplusplus", "attention_unet"]
    scores = [0.7 - step * rank for rank in range(4)]
    found = [
        variant(name, score, final__val_loss=2.5)
        for name, score in zip(names, scores[::-1] if turned else scores, strict=True)
    ]
    for weights, expected in (("imagenet", verdict), (None, random_verdict)):
        studies = {"architecture": found, "dropout": [NOISE]}
        assert finding("Table 1", evidence(studies, weights=weights)).verdict == expected


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
        (curve(26), "confirmed"),
        (curve(10), "not confirmed"),
        (curve(35), "not testable here"),  # it still falls
        (curve(22), "not testable here"),  # epoch 19 is as good as that
    ],
)
def test_the_optimum_is_read_off_the_curve(losses: dict[int, float], verdict: str) -> None:
    curves = {"val_loss": losses, "val_argmax_score": dict.fromkeys(range(35), 0.6)}
    found = finding("The optimum", evidence({"dropout": [NOISE], "epochs": [variant("35", 0.6)]}, curves))
    assert found.verdict == verdict
    lowest = min(losses, key=lambda epoch: losses[epoch]) + 1
    assert found.measured.startswith(f"validation loss lowest after epoch {lowest} of 35; ")
    assert "it moves by 0.0100 an epoch" in found.measured


@pytest.mark.parametrize(
    ("slope", "score", "verdict"),
    [
        (0.01, 0.6, "confirmed"),
        (0.01, 0.5, "not confirmed"),  # the score falls as well
        (0.0, 0.6, "not confirmed"),
    ],
)
def test_overfitting_is_a_rise_beyond_the_wobble(slope: float, score: float, verdict: str) -> None:
    losses = curve(20, slope)
    scores = {epoch: 0.6 + 0.001 * (epoch % 2) for epoch in range(35)} | dict.fromkeys((32, 33, 34), score)
    found = evidence({"dropout": [NOISE]}, {"val_loss": losses, "val_argmax_score": scores})
    assert finding("The validation loss", found).verdict == verdict


def test_a_curve_of_chance_confirms_nothing() -> None:
    rng = np.random.default_rng(0)
    confirmed = {"The optimum": 0, "The validation loss": 0}
    for _ in range(200):
        losses, scores = (dict(enumerate(rng.normal(level, 0.01, 35))) for level in (2.9, 0.6))
        curves = {"val_loss": losses, "val_argmax_score": scores}
        found = evidence({"dropout": [NOISE], "epochs": [variant("35", 0.6)]}, curves)
        for claim in confirmed:
            confirmed[claim] += finding(claim, found).verdict == "confirmed"
    assert max(confirmed.values()) <= 2, confirmed


@pytest.mark.parametrize(
    ("pools", "verdict"), [(0.20, "confirmed"), (0.16, "not testable here"), (0.0, "not confirmed")]
)
def test_minorities_are_the_classes_below_one_percent(pools: float, verdict: str) -> None:
    shares = {0: 0.005, 1: 0.5, 3: 0.004, 4: 0.006, 7: 0.0}
    dice = {"val__dice/01_property_roof": 0.9, "val__dice/04_vehicle": 0.1}

    def network(label: str, *pools: float) -> Variant:
        seeds = [variant(label, 0.6 + value / 100, **dice, **{"val__dice/03_swimming_pool": value}) for value in pools]
        return Variant(label, tuple(folds for one in seeds for folds in one.seeds))

    found = evidence(
        {
            "architecture": [network("attention_unet", pools), network("unet", 0.1)],
            # Their means over both minorities deviate by 0.01.
            "dropout": [network("0.1", 0.10, 0.14, 0.10, 0.14, 0.12)],
        },
        shares=shares,
    )
    both = {"architecture": [network("attention_unet", -0.1), network("unet", -0.1)]}  # means of 0
    assert finding("Attention helps minority", evidence(both, shares=shares)).verdict == "not testable here"
    # Roofs are no minority, and no photo holds solar panels.
    measured = finding("Attention helps minority", found).measured
    assert (
        f"attention_unet {(pools + 0.1) / 2:.4f}, unet 0.1000 ({pools / 2 - 0.05:+.4f}, margin {MARGIN:.4f})"
        in measured
    )
    assert finding("Attention helps minority", found).verdict == verdict


@pytest.mark.parametrize(
    ("near", "far", "verdict"),
    [
        (0.55, 0.60, "confirmed"),
        (0.55, 0.65, "not testable here"),  # better at borders as it is everywhere
        (0.51, 0.60, "not testable here"),
        (0.45, 0.60, "not confirmed"),
    ],
)
def test_borders_must_gain_more_than_the_interior(near: float, far: float, verdict: str) -> None:
    def network(label: str, *shares: tuple[float, float]) -> Variant:
        seeds = [
            variant(label, 0.6 + border, val__border_accuracy=border, val__interior_accuracy=interior)
            for border, interior in shares
        ]
        return Variant(label, tuple(folds for one in seeds for folds in one.seeds))

    networks = [network("attention_unet", (near, far)), network("unet", (0.5, 0.6))]
    # Their differences deviate by 0.01.
    others = network("0.1", *((0.5 + by, 0.6) for by in (0.0, 0.02, 0.0001, 0.0201, 0.01)))
    found = finding("Attention helps borders", evidence({"architecture": networks, "dropout": [others]}))
    assert f"attention_unet {near:.4f} and {far:.4f} and unet 0.5000 and 0.6000" in found.measured
    assert f"({near - far + 0.1:+.4f}, margin {MARGIN:.4f})" in found.measured
    assert found.verdict == verdict
    alone = finding("Attention helps borders", evidence({"architecture": networks}))
    assert alone.verdict == "not testable here"
    before = [variant("attention_unet", 0.6), variant("unet", 0.6)]
    remedy = "not run since borders are measured: `harveyseg study architecture`"
    assert finding("Attention helps borders", evidence({"architecture": before})).measured == remedy


def test_a_shared_machine_does_not_tell_the_latency() -> None:
    names = ("mobilenet_v2", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "unet")
    networks = [variant(name, 0.6, images_per_second=20.0) for name in names]
    found = finding("MobileNetV2", evidence({"architecture": networks}))
    assert "Missing: an idle machine (`benchmarks/latency.py`)" in found.measured
    assert found.verdict == "not testable here"


def test_the_file_from_mlflow_alone(tracker: Tracker, project: Path, base: Base) -> None:
    for seed in (0, 1):
        log(tracker, project, base, "softmax", "on", seed, (0.70, 0.70 + seed / 100))
        log(tracker, project, base, "softmax", "off", seed, (0.59, 0.59))
    log(tracker, project, base, "epochs", "35", 0, (0.6, 0.6))
    out, figure = project / "RESULTS.md", project / "docs" / "curves.png"
    text = write_results(base, tracker, out, figure)
    assert out.read_text() == text == write_results(base, tracker, out, figure)
    assert "**Trainings:** 10, the last of 2026-09-2" in text
    assert "**Data:** demo; 3 folds, groups that stay together: neighbouring ids; held out in turn: fold 0, 1." in text
    assert "photos of 128 pixels instead of 256" in text
    # Deviation 0.0050 / sqrt(2) of two seeds, pooled with that of two others, 0: two degrees of freedom, t = 4.303.
    margin = 4.303 * 0.005 / math.sqrt(2) / math.sqrt(2)
    assert f"| on 0.7025; off 0.5900 (+0.1125, margin {margin:.4f}) | **confirmed** |" in text
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
    assert f"The lifts do not differ by more than the margin ({MARGIN:.4f})" in even
    alone = "\n".join(_explanations(evidence({"softmax": [off, on]})))
    assert "Whether the lifts differ cannot be said with one seed each" in alone
    assert "Here they did not: 0 of the 1 seeds of the recipe ended so" in even
    networks = [variant("unet", 0.6), variant("mobilenet_v2", 0.7)]
    assert "`postprocess.method: auto` is missing" in _ranking(evidence({"architecture": networks}, method="argmax"))
    assert "leaves the ranking as it is" in _ranking(evidence({"architecture": networks}))
    turned = [variant("unet", 0.6, val__decided_score=0.75), variant("mobilenet_v2", 0.7)]
    beyond = _ranking(evidence({"architecture": turned, "dropout": [variant("0.1", 0.60, 0.601, 0.602)]}))
    assert "changes the ranking.** " in beyond
    assert "of 1 pairs 1 change places, 1 of them beyond the margins" in beyond
    within = _ranking(evidence({"architecture": turned, "dropout": [variant("0.1", 0.60, 0.65, 0.70)]}))
    assert "hardly changes the ranking.** " in within
    assert "The rule adds +0.0200 on the average" in _ranking(evidence({"architecture": networks}))
