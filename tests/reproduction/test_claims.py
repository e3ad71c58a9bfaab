"""Each verdict, from made-up runs whose answer is known."""

import math
from collections.abc import Mapping

import numpy as np
import pytest

from harveyseg.reproduction.claims import Judgement, StudyResults, find_deciding, read_claims
from harveyseg.reproduction.export import Latency
from harveyseg.reproduction.studies import TABLE_1, read_studies
from harveyseg.reproduction.tables import Variant
from helpers.studies import make_variant, with_curves

COLLAPSED = {"val__false_positive_classes": 0.3, "val__missed_classes": 9.0}
"""Ended at one class: of 24 x (1 - 0.6) = 9.6 classes per photo 9 are missed, and 0.3 absent ones are predicted."""


def make_results(
    studies: Mapping[str, list[Variant]], shares: Mapping[int, float] | None = None, pretrained: bool = True
) -> StudyResults:
    named = {study: {variant.label: variant for variant in variants} for study, variants in studies.items()}
    return StudyResults(named, shares or {}, pretrained)


def judge(claim: str, results: StudyResults) -> Judgement:
    return read_claims()[claim].judge(results)


NOISE = make_variant("0.1", 0.60, 0.62, 0.60, 0.62, 0.61)
"""Its deviation is 0.01 with 4 degrees of freedom, for which tables of Student's t give 2.776 at 97.5%."""
MARGIN = 0.0393
"""2.776 x 0.01 x sqrt(2): of a difference between two seeds."""


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(0.040, "confirmed"), (0.038, "undecided"), (-0.038, "undecided"), (-0.040, "contradicted")],
)
def test_a_gain_counts_beyond_the_margin(gain: float, verdict: str) -> None:
    variants = [make_variant("off", 0.60), make_variant("on", 0.60 + gain)]
    judgement = judge("softmax", make_results({"softmax": variants, "dropout": [NOISE]}))
    assert judgement.verdict == verdict
    assert judgement.measured == f"on {0.6 + gain:.4f}; off 0.6000"
    assert judgement.difference == pytest.approx(gain)
    assert judgement.margin == pytest.approx(MARGIN, abs=5e-5)
    assert judgement.note == ("missing: more seeds" if verdict == "undecided" else "")


def test_more_seeds_make_the_margin_smaller() -> None:
    off, on = make_variant("off", 0.60, 0.60, 0.60), make_variant("on", 0.63, 0.63, 0.63)
    results = make_results({"softmax": [off, on], "dropout": [NOISE]})
    # The variance of 4 x 0.0001 is pooled over 4 + 2 + 2 degrees of freedom, for which t is 2.306.
    assert results.noise().deviation == pytest.approx(math.sqrt(0.0004 / 8))
    judgement = judge("softmax", results)
    assert judgement.margin == pytest.approx(2.306 * math.sqrt(0.0004 / 8 * 2 / 3), rel=1e-3)
    assert judgement.verdict == "confirmed"


def test_chance_is_seldom_confirmed() -> None:
    """Variants that differ by nothing but the seed: one in forty looks like a gain, one in forty like a loss."""
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(400):
        off, on = (make_variant(label, *rng.normal(0.6, 0.01, 3)) for label in ("off", "on"))
        verdicts.append(judge("softmax", make_results({"softmax": [off, on]})).verdict)
    assert 0.01 < verdicts.count("confirmed") / 400 < 0.05
    assert 0.01 < verdicts.count("contradicted") / 400 < 0.05


def spread_of(deviation: float) -> Variant:
    """Five seeds with exactly this deviation: t is 2.776."""
    return make_variant("0.1", *(0.61 + by * deviation for by in (-1, 1, -1, 1, 0)))


@pytest.mark.parametrize(
    ("gain", "deviation", "verdict"),
    [
        # Of two seeds the margin is 2.776 x sqrt(2) = 3.926 times the deviation.
        (0.000, 0.0025, "no difference"),  # the interval ends at 0.0098
        (0.000, 0.0026, "undecided"),  # at 0.0102
        (0.005, 0.0012, "no difference"),  # surely above 0, and surely below 0.01
        (-0.005, 0.0012, "no difference"),
        (0.005, 0.0013, "undecided"),  # from -0.0001 to 0.0101
        (0.009, 0.0020, "confirmed"),  # from 0.0011 to 0.0169
        (-0.009, 0.0020, "contradicted"),
    ],
)
def test_no_difference_is_an_interval_within_a_hundredth(gain: float, deviation: float, verdict: str) -> None:
    noise = spread_of(deviation)
    variants = [make_variant("off", 0.60), make_variant("on", 0.60 + gain)]
    assert judge("softmax", make_results({"softmax": variants, "dropout": [noise]})).verdict == verdict
    # "Do not help" holds of class weights that change nothing.
    weights = [make_variant("none", 0.60), make_variant("report", 0.60 + gain), make_variant("enet", 0.7)]
    denied = {"no difference": "confirmed", "confirmed": "contradicted", "contradicted": "confirmed"}
    judgement = judge("class_weights", make_results({"class_weights": weights, "dropout": [noise]}))
    assert judgement.verdict == denied.get(verdict, verdict)


@pytest.mark.parametrize(
    ("small", "large", "deciding"),
    [(0, 0, 1), (1, 0, 0), (0, 1, 1), (2, 1, 0), (6, 2, 0), (6, 3, 1), (3, 6, 1), (6, 4, 1)],
)
def test_the_largest_photos_with_three_seeds_decide_whatever_they_say(small: int, large: int, deciding: int) -> None:
    def results(seeds: int, gain: float) -> StudyResults:
        off = [0.6 + seed / 1000 for seed in range(seeds)]
        more = make_variant("on", *(score + gain for score in [*off, 0.6]))  # a seed more than "off"
        return make_results({"softmax": [make_variant("off", *off), more]})

    claim = read_claims()["softmax"]
    for gain in (0.1, -0.1, 0.0):
        assert find_deciding(claim, [results(small, gain), results(large, -gain)]) == deciding


def test_without_a_known_spread_nothing_is_judged() -> None:
    judgement = judge("softmax", make_results({"softmax": [make_variant("off", 0.5), make_variant("on", 0.7)]}))
    assert (judgement.verdict, judgement.margin) == ("undecided", None)
    assert "`harveyseg study softmax --seeds 3`" in judgement.note


def test_what_has_not_run_says_how_to_run_it() -> None:
    for name, claim in read_claims().items():
        judgement = claim.judge(make_results({}))
        assert judgement.verdict == "undecided", name
        remedies = (f"`harveyseg study {claim.study}`", "`dvc repro`", "`benchmarks/latency.py --log`")
        assert any(remedy in judgement.note for remedy in remedies), name


def test_every_claim_names_variants_that_its_study_has() -> None:
    studies = read_studies()
    for name, claim in read_claims().items():
        study = studies.get(claim.study or "")
        assert (study is None) == (name in ("imbalance", "latency"))
        named = {
            label
            for key in ("variant", "counterpart", "rivals", "shown", "variants", "stand_ins")
            for label in np.atleast_1d(
                [*getattr(claim.test, key).values()] if key == "stand_ins" else getattr(claim.test, key, [])
            )
        }
        if study is not None:
            (values,) = [*study.vary.values()] or [study.models or study.together]
            assert named <= set(map(str, values)), name


@pytest.mark.parametrize(("report", "verdict"), [(0.61, "undecided"), (0.55, "confirmed"), (0.65, "contradicted")])
def test_class_weights_do_not_help_unless_the_reports_do(report: float, verdict: str) -> None:
    # What another formula brings is no statement of the report.
    weights = [make_variant("none", 0.60), make_variant("report", report), make_variant("enet", 0.70)]
    assert judge("class_weights", make_results({"class_weights": weights, "dropout": [NOISE]})).verdict == verdict


def test_the_smaller_size_is_the_second() -> None:
    for double, single in (("512", "256"), ("[128, 192]", "[64, 96]")):
        variants = [make_variant(double, 0.6), make_variant(single, 0.65)]
        judgement = judge("size", make_results({"size": variants, "dropout": [NOISE]}))
        assert judgement.measured == f"{single} 0.6500; {double} 0.6000"
        assert judgement.verdict == "confirmed"


@pytest.mark.parametrize(
    ("rival", "verdict", "random_verdict"),
    [
        (0.60, "confirmed", "undecided"),
        (0.64, "undecided", "undecided"),
        # Without ImageNet the rival is handicapped, and still better.
        (0.70, "contradicted", "contradicted"),
    ],
)
def test_unet_must_beat_the_best_of_the_others(rival: float, verdict: str, random_verdict: str) -> None:
    others = ["attention_unet", "unetplusplus", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3"]
    networks = [make_variant("unet", 0.65), make_variant("mobilenet_v2", rival)]
    networks += [make_variant(name, 0.5) for name in others]
    assert judge("unet_first", make_results({"architecture": networks, "dropout": [NOISE]})).verdict == verdict
    random = make_results({"architecture": networks, "dropout": [NOISE]}, pretrained=False)
    assert judge("unet_first", random).verdict == random_verdict
    assert "ImageNet weights" in judge("unet_first", random).note
    # FCN and SegNet are not in the report's comparison.
    more = [*networks, make_variant("fcn", 0.9)]
    assert judge("unet_first", make_results({"architecture": more, "dropout": [NOISE]})).verdict == verdict


def test_pretrained_networks_stand_in_for_those_whose_weights_cannot_be_had() -> None:
    claim = read_claims()["b2_beats_b3"]
    random = [make_variant("efficientnet_b2", 0.60), make_variant("efficientnet_b3", 0.70)]
    stand_ins = [make_variant("efficientnet_lite1", 0.75), make_variant("efficientnet_lite2", 0.65)]
    studies = {"architecture": [*random, *stand_ins], "dropout": [NOISE]}
    judgement = claim.judge(make_results(studies, pretrained=False))
    assert judgement.verdict == "confirmed"
    assert judgement.measured == "efficientnet_lite1 0.7500; efficientnet_lite2 0.6500"
    assert judgement.note == "stand-ins: efficientnet_lite1 for efficientnet_b2, efficientnet_lite2 for efficientnet_b3"
    # With weights of their own nobody stands in.
    judgement = claim.judge(make_results(studies))
    assert (judgement.verdict, judgement.note) == ("contradicted", "")
    # A pretrained one is not compared with one that is not, unless that one wins.
    for score, verdict in ((0.60, "undecided"), (0.80, "contradicted")):
        half = [random[0], make_variant("efficientnet_b3", score), make_variant("efficientnet_lite1", 0.7)]
        results = make_results({"architecture": half, "dropout": [NOISE]}, pretrained=False)
        assert claim.judge(results).verdict == verdict


def test_seeds_that_collapsed_to_one_class_are_left_out_and_counted() -> None:
    collapsed = make_variant("on", 0.63, **COLLAPSED)
    learnt = make_variant("on", 0.70)
    off = make_variant("off", 0.60)
    nothing = judge("softmax", make_results({"softmax": [off, collapsed], "dropout": [NOISE]}))
    assert nothing.verdict == "undecided"
    assert "1 of 1 seeds collapsed to one class" in nothing.measured
    both = Variant("on", (*collapsed.seeds, *learnt.seeds))
    half = make_results({"softmax": [off, both], "dropout": [NOISE]})
    judgement = judge("softmax", half)
    assert judgement.measured == "on 0.7000 (1 of 2 seeds collapsed to one class; 0.6650 with them); off 0.6000"
    assert judgement.difference == pytest.approx(0.1)
    assert judgement.verdict == "confirmed"
    # The difference between a seed that learnt and one that did not is no noise.
    assert half.noise().deviation == pytest.approx(0.01)
    # What learns seldom is no gain, however good it is then.
    seldom = Variant("on", (*make_variant("on", 0.4, **COLLAPSED).seeds, *learnt.seeds))
    judgement = judge("softmax", make_results({"softmax": [off, seldom], "dropout": [NOISE]}))
    assert judgement.verdict == "contradicted"
    assert judgement.note == "not so with the seeds that collapsed to one class"
    rivals = [make_variant(name, 0.6, **COLLAPSED) for name in TABLE_1[1:]]
    networks = make_results({"architecture": [make_variant("unet", 0.65), *rivals], "dropout": [NOISE]})
    assert judge("unet_first", networks).verdict == "undecided"


def test_trainings_that_studies_share_count_once() -> None:
    shared = make_variant("on", 0.6)
    off = make_variant("off", 0.7)
    results = make_results({"softmax": [off, shared], "dropout": [shared]})
    assert [variant.label for variant in results.distinct] == ["off", "on"]
    assert len(results.runs) == 2
    two_seeds = Variant("on", (*shared.seeds, *make_variant("on", 0.61).seeds))  # in one of the studies
    results = make_results({"softmax": [off, two_seeds], "dropout": [shared]})
    assert [len(variant.seeds) for variant in results.distinct] == [2, 1]


@pytest.mark.parametrize(
    ("step", "turned", "verdict", "random_verdict"),
    [
        (0.04, False, "confirmed", "undecided"),
        (0.03, False, "undecided", "undecided"),
        (0.01, True, "undecided", "undecided"),
        # Two of the four began from random weights in the report, too: their order is tested in any case.
        (0.04, True, "contradicted", "contradicted"),
    ],
)
def test_the_order_of_table_1(step: float, turned: bool, verdict: str, random_verdict: str) -> None:
    names = ["mobilenet_v2", "efficientnet_b2", "unetplusplus", "attention_unet"]
    scores = [0.7 - step * rank for rank in range(4)]
    networks = [
        make_variant(name, score, written__val_loss=2.5)
        for name, score in zip(names, scores[::-1] if turned else scores, strict=True)
    ]
    for pretrained, expected in ((True, verdict), (False, random_verdict)):
        studies = {"architecture": networks, "dropout": [NOISE]}
        assert judge("table_1", make_results(studies, pretrained=pretrained)).verdict == expected


def test_the_training_loss_of_a_double_softmax() -> None:
    on, off = make_variant("on", 0.6, written__train_loss=2.93), make_variant("off", 0.6, written__train_loss=1.1)
    assert judge("training_loss", make_results({"softmax": [on, off]})).verdict == "confirmed"
    off = make_variant("off", 0.6, written__train_loss=2.9)
    assert judge("training_loss", make_results({"softmax": [on, off]})).verdict == "contradicted"


def test_three_classes_cover_half_of_the_pixels() -> None:
    assert judge("imbalance", make_results({}, shares={5: 0.3, 6: 0.15, 23: 0.1})).verdict == "confirmed"
    assert judge("imbalance", make_results({}, shares={5: 0.2, 6: 0.15, 23: 0.1})).verdict == "contradicted"


def longest(*curves: dict[str, dict[int, float]]) -> Variant:
    """The training of 35 epochs, with these curves of its seeds."""
    variants = [with_curves(make_variant("35", 0.6 + index / 100), each) for index, each in enumerate(curves)]
    return Variant("35", tuple(folds for variant in variants for folds in variant.seeds))


def curve(lowest: int, slope: float = 0.01) -> dict[int, float]:
    """The losses of 35 epochs, lowest after this one and rising by ``slope`` an epoch away from it."""
    return {epoch: abs(epoch - lowest) * slope + 1 for epoch in range(1, 36)}


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        (curve(26), "confirmed"),
        (curve(10), "contradicted"),
        (curve(35), "undecided"),  # it still falls
        (curve(22), "undecided"),  # epoch 19 is as good as that
    ],
)
def test_the_optimum_is_read_off_the_curve(losses: dict[int, float], verdict: str) -> None:
    judgement = judge("optimum", make_results({"epochs": [longest(*3 * [{"val_loss": losses}])]}))
    assert judgement.verdict == verdict
    lowest = min(losses, key=lambda epoch: losses[epoch])
    assert judgement.measured.startswith(f"lowest validation loss after epoch {lowest} of 35; ")
    assert judgement.measured.endswith("median step 0.0100")


@pytest.mark.parametrize(
    ("slope", "score", "verdict"),
    [
        (0.01, 0.6, "confirmed"),
        (0.01, 0.5, "contradicted"),  # the score falls as well
        (0.0, 0.6, "contradicted"),
    ],
)
def test_overfitting_is_a_rise_beyond_the_wobble(slope: float, score: float, verdict: str) -> None:
    losses = curve(20, slope)
    scores = {epoch: 0.6 + 0.001 * (epoch % 2) for epoch in range(1, 36)} | dict.fromkeys((33, 34, 35), score)
    seeds = longest(*3 * [{"val_loss": losses, "val_argmax_score": scores}])
    assert judge("overfitting", make_results({"epochs": [seeds]})).verdict == verdict


def test_curves_of_fewer_than_three_seeds_decide_nothing() -> None:
    curves = {"val_loss": curve(26), "val_argmax_score": curve(26)}
    for claim in ("optimum", "overfitting"):
        judgement = judge(claim, make_results({"epochs": [longest(curves, curves)]}))
        assert (judgement.verdict, judgement.note) == ("undecided", "missing: more seeds")


def test_a_flat_curve_has_no_optimum() -> None:
    flat = {"val_loss": curve(26, slope=0.0005)}
    assert judge("optimum", make_results({"epochs": [longest(flat, flat, flat)]})).verdict == "no difference"


def test_the_epochs_are_not_chosen_by_the_curve_that_they_judge() -> None:
    """A seed's own lowest epoch is a matter of chance: here each seed's is one of its own outside of 20 to 35."""
    seeds = []
    for dip in (3, 9, 15):
        losses = curve(26, slope=0.002)
        losses[dip] = 0.5
        seeds.append({"val_loss": losses})
    # By its own curve each seed would be lower outside, at its dip; at the others' dips, the later of which is lower,
    # it is higher than at 26. All are means of three epochs, the lowest of which around a dip at 15 is that of 16.
    judgement = judge("optimum", make_results({"epochs": [longest(*seeds)]}))
    outside = (0.002 * (26 - 16), 0.002 * (26 - 16), 0.002 * (26 - 10))
    assert judgement.difference == pytest.approx(sum(outside) / 3 - 0.004 / 3)


def test_a_curve_of_chance_confirms_nothing() -> None:
    rng = np.random.default_rng(0)
    confirmed = {"optimum": 0, "overfitting": 0}
    levels = {"val_loss": 2.9, "val_argmax_score": 0.6}
    for _ in range(200):
        seeds = [
            {name: dict(enumerate(rng.normal(level, 0.01, 35), start=1)) for name, level in levels.items()}
            for _ in range(3)
        ]
        results = make_results({"epochs": [longest(*seeds)]})
        for claim in confirmed:
            confirmed[claim] += judge(claim, results).verdict == "confirmed"
    assert max(confirmed.values()) <= 2, confirmed


@pytest.mark.parametrize(("pools", "verdict"), [(0.20, "confirmed"), (0.16, "undecided"), (0.0, "contradicted")])
def test_minorities_are_the_classes_below_one_percent(pools: float, verdict: str) -> None:
    shares = {0: 0.005, 1: 0.5, 3: 0.004, 4: 0.006, 7: 0.0}
    dice = {"val__argmax_dice/01_property_roof": 0.9, "val__argmax_dice/04_vehicle": 0.1}

    def network(label: str, *pools: float) -> Variant:
        seeds = [
            make_variant(label, 0.6 + value / 100, **dice, **{"val__argmax_dice/03_swimming_pool": value})
            for value in pools
        ]
        return Variant(label, tuple(folds for seed in seeds for folds in seed.seeds))

    results = make_results(
        {
            "architecture": [network("attention_unet", pools), network("unet", 0.1)],
            # Their means over both minorities deviate by 0.01.
            "dropout": [network("0.1", 0.10, 0.14, 0.10, 0.14, 0.12)],
        },
        shares=shares,
    )
    both = {"architecture": [network("attention_unet", -0.1), network("unet", -0.1)]}  # means of 0
    assert judge("minorities", make_results(both, shares=shares)).verdict == "undecided"
    # Roofs are no minority, and no photo holds solar panels.
    judgement = judge("minorities", results)
    assert judgement.measured == f"attention_unet {(pools + 0.1) / 2:.4f}; unet 0.1000"
    assert judgement.difference == pytest.approx(pools / 2 - 0.05)
    assert judgement.margin == pytest.approx(MARGIN, abs=5e-5)
    assert judgement.verdict == verdict


@pytest.mark.parametrize(
    ("near", "far", "verdict"),
    [
        (0.55, 0.60, "confirmed"),
        (0.55, 0.65, "undecided"),  # better at borders as it is everywhere
        (0.51, 0.60, "undecided"),
        (0.45, 0.60, "contradicted"),
    ],
)
def test_borders_must_gain_more_than_the_interior(near: float, far: float, verdict: str) -> None:
    def network(label: str, *shares: tuple[float, float]) -> Variant:
        seeds = [
            make_variant(label, 0.6 + border, val__boundary_accuracy=border, val__interior_accuracy=interior)
            for border, interior in shares
        ]
        return Variant(label, tuple(folds for seed in seeds for folds in seed.seeds))

    networks = [network("attention_unet", (near, far)), network("unet", (0.5, 0.6))]
    # Their differences deviate by 0.01.
    others = network("0.1", *((0.5 + by, 0.6) for by in (0.0, 0.02, 0.0001, 0.0201, 0.01)))
    judgement = judge("borders", make_results({"architecture": networks, "dropout": [others]}))
    assert judgement.measured == f"attention_unet {near - far:.4f}; unet -0.1000"
    assert judgement.difference == pytest.approx(near - far + 0.1)
    assert judgement.margin == pytest.approx(MARGIN, abs=5e-5)
    assert judgement.verdict == verdict
    alone = judge("borders", make_results({"architecture": networks}))
    assert alone.verdict == "undecided"
    unmeasured = [make_variant("attention_unet", 0.6), make_variant("unet", 0.6)]
    assert (
        judge("borders", make_results({"architecture": unmeasured})).note == "missing: `harveyseg study architecture`"
    )


@pytest.mark.parametrize(
    ("ratio", "low", "high", "verdict"),
    [
        (0.80, 0.75, 0.90, "confirmed"),
        (1.60, 1.55, 1.70, "contradicted"),
        (0.95, 0.80, 1.05, "undecided"),
        (1.002, 0.998, 1.007, "no difference"),
    ],
)
def test_the_latency_is_that_of_a_measurement(ratio: float, low: float, high: float, verdict: str) -> None:
    assert judge("latency", make_results({})).note == "missing: `benchmarks/latency.py --log`, on an idle machine"
    # How fast trainings are beside other jobs does not tell.
    names = ("mobilenet_v2", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "unet")
    networks = [make_variant(name, 0.6, images_per_second=20.0) for name in names]
    assert judge("latency", make_results({"architecture": networks})).verdict == "undecided"
    unet = Latency(milliseconds=90, ratio=1, low=1, high=1)
    mobilenet = Latency(milliseconds=90 * ratio, ratio=ratio, low=low, high=high)
    judgement = judge("latency", StudyResults({}, {}, True, {"unet": unet, "mobilenet_v2": mobilenet}))
    assert judgement.verdict == verdict
    assert judgement.measured.endswith(f" times the U-Net's time; unet 90.0 ms; mobilenet_v2 {90 * ratio:.1f} ms")
