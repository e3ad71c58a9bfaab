"""Disagreement and correlation of errors, counted by hand on maps of 4 x 4 pixels."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image

from harveyseg.arrays import ClassMap, ClassMaps
from harveyseg.classes import HARVEY25
from harveyseg.data.cache import CachedPart
from harveyseg.ensemble.diversity import compare_models, mixture_scores, write_diversity
from harveyseg.ensemble.figures import diversity_figure
from harveyseg.ensemble.members import FoldModel, FoldModels
from harveyseg.score import confusion
from helpers.records import make_record

GRASS = 5
ROAD = 6
POOL = 3


def certain(class_maps: ClassMaps) -> npt.NDArray[np.uint8]:
    """Probabilities (n, 25, H, W) of a model that is certain of these class maps (n, H, W)."""
    return np.asarray(255 * (class_maps[:, None] == np.arange(25)[:, None, None]), np.uint8)


def halves(left: int, right: int) -> ClassMap:
    """4 x 4, two columns each."""
    return np.array([[left, left, right, right]] * 4, np.uint8)


def fold_models_of(predictions: Mapping[str, ClassMaps]) -> FoldModels:
    empty = np.zeros((0, 25, 4, 4), np.uint8)
    ids = ("p0", "p1")
    return FoldModels(
        tuple(predictions),
        (0,),
        {
            (model, 0): FoldModel(make_record(model), ids, certain(maps), (), empty, 0.5, {})
            for model, maps in predictions.items()
        },
    )


def training_part(masks: ClassMaps) -> CachedPart:
    ids = ("p0", "p1")
    images = np.zeros((2, 4, 4, 3), np.uint8)
    return CachedPart(ids, images, masks, pd.DataFrame({"id": ids}), (4, 4), "demo", "d", HARVEY25, (4, 4))


def test_pairs_are_compared_on_every_photo() -> None:
    truth = np.stack([halves(GRASS, ROAD), halves(GRASS, GRASS)])
    models = {
        "right": truth,
        "no_road": np.stack([halves(GRASS, GRASS), halves(GRASS, GRASS)]),
        "pools": np.stack([halves(GRASS, ROAD), halves(POOL, POOL)]),
    }
    diversity = compare_models(fold_models_of(models), training_part(truth), threads=2)
    assert diversity.models == ("right", "no_road", "pools")
    # Of 32 pixels: right and no_road differ in the 8 of the road, right and pools in the 16 of the second photo.
    assert diversity.disagreement == pytest.approx(np.array([[0, 8, 16], [8, 0, 24], [16, 24, 0]]) / 32)
    # Photo 0 holds grass and road, photo 1 grass and, by "pools", pool. Grass of photo 0 by no_road: 2 * 8 / (8 + 16).
    no_road = [1 / 3, 1.0, 0.0, 0.0]
    pools = [0.0, 0.0, 1.0, 1.0]
    assert diversity.error_correlation[1, 2] == pytest.approx(np.corrcoef(no_road, pools)[0, 1])
    assert diversity.error_correlation[2, 2] == pytest.approx(1)
    assert np.isnan(diversity.error_correlation[0]).all()  # never wrong: nothing to correlate


def test_one_model_is_compared_with_itself() -> None:
    truth = np.stack([halves(GRASS, ROAD), halves(GRASS, GRASS)])
    diversity = compare_models(fold_models_of({"single": truth[::-1]}), training_part(truth), threads=1)
    assert diversity.disagreement.tolist() == [[0]]
    assert diversity.error_correlation.shape == (1, 1)


def test_table_has_a_row_for_each_score_and_each_pair(tmp_path: Path) -> None:
    truth = np.stack([halves(GRASS, ROAD), halves(GRASS, GRASS)])
    models = {"right": truth, "wrong": truth[::-1]}
    diversity = compare_models(fold_models_of(models), training_part(truth), threads=1)
    equal = np.stack([confusion(mask, mask, 25) for mask in truth])
    scores = {"right": 1.0, "wrong": 0.5} | mixture_scores(
        equal, {"val/argmax_score": 0.75, "val/nested_argmax_score": 0.625}, 1
    )
    write_diversity(tmp_path, diversity, scores)
    assert (tmp_path / "diversity.png").stat().st_size > 1000
    table = pd.read_csv(tmp_path / "diversity.csv").set_index("what")
    assert table["argmax_score"].dropna().to_dict() == {
        "right": 1.0, "wrong": 0.5, "mean of all": 1.0, "chosen weights": 0.75, "chosen on other folds": 0.625
    }  # fmt: skip
    assert table["disagreement"].dropna().to_dict() == {"right + wrong": 0.5}
    assert "chosen on other folds" not in mixture_scores(equal, {"val/argmax_score": 0.75}, 1)


def test_figure_grows_with_the_models(tmp_path: Path) -> None:
    for count in (1, 6):
        names = [f"model_{index}" for index in range(count)]
        values = np.full((count, count), 0.25)
        scores = {name: 0.5 + 0.01 * index for index, name in enumerate(names)} | {"mean of all": 0.6}
        diversity_figure(names, values, np.where(values > 0, np.nan, 0), scores, tmp_path / f"{count}.png", "title")
    with Image.open(tmp_path / "1.png") as single, Image.open(tmp_path / "6.png") as six:
        assert six.width > 1.3 * single.width
        # All pairs disagree alike, so they have one colour, off the diagonal only: 30 of 36 cells.
        rgb = np.array(six.convert("RGB"))
    colours, counts = np.unique(rgb.reshape(-1, 3), axis=0, return_counts=True)
    blue = counts[(colours[:, 2] > colours[:, 0].astype(int) + 60) & (counts > 5000)]
    assert len(blue) >= 1
