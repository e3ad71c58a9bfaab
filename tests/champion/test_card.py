"""The model card: it states what the table and the files of the stages hold."""

import pandas as pd
import pytest

from harveyseg.champion.card import CardFacts, write_card
from harveyseg.classes import HARVEY25
from harveyseg.prediction.scale import Training
from harveyseg.prediction.trained_ensemble import TrainedEnsemble
from harveyseg.tracking.table import find_winner
from helpers.predicting import FLOODED, GRASS, sure
from helpers.records import make_record


def table() -> pd.DataFrame:
    rows = [
        {"model": "unet", "fold": "0", "val_score": "0.70000"},
        {"model": "unet", "fold": "1", "val_score": "0.80000"},
        {"model": "unet", "fold": "all", "val_score": "0.74000", "test_score": "0.71000"},
        {"model": "unet", "fold": "mean", "val_score": "0.75000"},
        {"model": "unet", "fold": "spread", "val_score": "0.07071"},
        {"model": "ensemble", "fold": "", "val_score": "0.74000", "val_nested_argmax_score": ""},
        {"model": "all_empty", "fold": "", "val_score": "0.60000"},
    ]
    columns = ["val_score", "val_argmax_score", "val_argmax_macro_dice", "val_miou", "val_nested_argmax_score"]
    columns += ["test_score", "test_argmax_score", "test_argmax_macro_dice", "test_miou"]
    return pd.DataFrame(rows, columns=["model", "fold", *columns]).fillna("")


@pytest.fixture
def facts() -> CardFacts:
    return CardFacts(
        ensemble=TrainedEnsemble((sure(GRASS),), (1.0,), name="unet", training=Training((60.0, 80.0))),
        records=[make_record("unet", fold, data_source="directory") for fold in (0, 1)],
        members={"unet": 1.0},
        table=table(),
        metrics={f"val/dice/{HARVEY25.slugs[FLOODED]}": 0.0, f"val/dice/{HARVEY25.slugs[GRASS]}": 0.512},
        notes=["overlap with training photos: not checked"],
        licence="CC BY 4.0.",
    )


def test_scores_come_with_their_spread(facts: CardFacts) -> None:
    card = write_card(facts)
    assert "| score | 0.740 | 0.710 |" in card
    assert "| score of submitting nothing | 0.600 |  |" in card
    assert "Spread (mean ± standard deviation) over its 2 folds: unet 0.750 ± 0.071." in card


def test_classes_found_and_not_found(facts: CardFacts) -> None:
    card = write_card(facts)
    assert "- found (Dice from 0.3): Grass 0.51\n" in card
    assert "- hardly found: none\n" in card
    assert "- never found: Flooded\n" in card
    unknown = next(line for line in card.splitlines() if line.startswith("- in no held-out photo"))
    assert unknown.count(",") == 22  # the other classes, and one comma of the sentence


def test_limits_licence_and_origin(facts: CardFacts) -> None:
    card = write_card(facts)
    assert "Overlap with training photos: not checked." in card
    assert "about 60 x 80 m of ground" in card
    assert "CC BY 4.0." in card
    assert "drawn photos" not in card
    assert "Commit `c0ffee`." in card
    dirty = [make_record("unet", 0, git_dirty=True)]
    assert "with changes that are in no commit" in write_card(CardFacts(**{**vars(facts), "records": dirty}))
    unknown = [make_record("unet", 0, git_dirty=None)]
    assert "as far as git could tell" in write_card(CardFacts(**{**vars(facts), "records": unknown}))


def test_the_first_of_equal_scores_wins() -> None:
    assert find_winner(table(), ["unet", "ensemble"]) == "unet"
    assert find_winner(table(), ["ensemble"]) == "ensemble"
