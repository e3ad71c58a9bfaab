"""Training on twelve tiny photos: really learns, is reproducible, and resumes to the very same weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harveyseg.augmentation import AugmentationParams
from harveyseg.cache import CachedPart
from harveyseg.checkpoint import Checkpoint
from harveyseg.errors import HarveysegError
from harveyseg.settings import parse
from harveyseg.training import Result, Training, TrainParams, epoch_batches

SPEC = {"network": "unet", "width": 4, "dropout": 0.2}
BASE: dict[str, Any] = {
    "epochs": 3, "batch_size": 4, "lr": 0.01, "weight_decay": 0.0001, "optimiser": "adam", "schedule": "constant",
    "plateau_patience": 1, "depth_factor": 1.0, "class_weights": "none", "softmax_before_loss": False, "dice": 0.0,
    "ema": None, "keep": "best", "monitor": "val_score", "early_stopping": None, "encoder_weights": None,
    "augmentation": AugmentationParams().model_dump(), "seed": 0, "threads": 1, "workers": 0, "device": "cpu",
    "precision": "fp32",
}  # fmt: skip


def _training(part: CachedPart, folder: Path, **changes: Any) -> Training:
    params = parse(TrainParams, {**BASE, **changes}, "train")
    return Training(SPEC, params, part, np.arange(8), np.arange(8, 12), Checkpoint(folder, "key"))


def _train(part: CachedPart, folder: Path, **changes: Any) -> Result:
    training = _training(part, folder, **changes)
    list(training.run())
    return training.finished()


def _equal(one: Result, other: Result) -> bool:
    return one.state.keys() == other.state.keys() and all(torch.equal(one.state[k], other.state[k]) for k in one.state)


def test_it_learns_two_classes_that_colour_tells_apart(tiny_part: CachedPart, tmp_path: Path) -> None:
    result = _train(tiny_part, tmp_path, epochs=25, lr=0.02)
    # Everything empty scores 22/24 here: two classes of 24 are in each photo.
    assert result.results["best/val_score"] > 0.99
    assert result.results["final/train_loss"] < 0.5 * result.history[0]["train_loss"]


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(tiny_part: CachedPart, tmp_path: Path) -> None:
    first = _train(tiny_part, tmp_path / "1")
    assert _equal(first, _train(tiny_part, tmp_path / "2"))
    assert not _equal(first, _train(tiny_part, tmp_path / "3", seed=1))


def test_the_number_of_workers_does_not_change_the_weights(tiny_part: CachedPart, tmp_path: Path) -> None:
    assert _equal(_train(tiny_part, tmp_path / "1"), _train(tiny_part, tmp_path / "2", workers=2))


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "one_cycle", "ema": 0.9, "optimiser": "adamw"},
        {"schedule": "plateau", "plateau_patience": 0, "keep": "last"},
        {"schedule": "cosine", "dice": 0.5, "class_weights": "enet", "precision": "bf16"},
    ],
)
def test_a_training_that_stopped_after_any_epoch_ends_in_the_same_weights(
    tiny_part: CachedPart, tmp_path: Path, changes: dict[str, Any]
) -> None:
    whole = _train(tiny_part, tmp_path / "whole", **changes)
    for stop in (1, 2, 3):
        folder = tmp_path / f"stopped-{stop}"
        events = _training(tiny_part, folder, **changes).run()
        for _ in range(stop):
            next(events)
        events.close()
        torch.manual_seed(99)  # a new process starts elsewhere
        resumed = _train(tiny_part, folder, **changes)
        assert _equal(whole, resumed), f"stopped after epoch {stop}"
        drop = ("time_ms", "seconds", "images_per_second")
        for one, other in zip(whole.history, resumed.history, strict=True):
            assert {k: v for k, v in one.items() if k not in drop} == {k: v for k, v in other.items() if k not in drop}


@pytest.mark.parametrize("epochs", [1, 5])
def test_epochs_means_exactly_that_many_passes(tiny_part: CachedPart, tmp_path: Path, epochs: int) -> None:
    events = list(_training(tiny_part, tmp_path, epochs=epochs).run())
    assert [event.row["epoch"] for event in events] == list(range(epochs))
    assert str(events[-1]).startswith(f"epoch   {epochs}/{epochs}  train loss ")


def test_every_photo_comes_once_in_an_epoch_and_the_order_changes() -> None:
    rows = list(range(100, 123))
    orders = []
    for epoch in range(3):
        batches = epoch_batches(rows, 5, seed=0, epoch=epoch)
        assert sorted(row for batch in batches for _, row in batch) == rows
        assert {key for batch in batches for key, _ in batch} == {epoch}
        orders.append([row for batch in batches for _, row in batch])
    assert orders[0] != orders[1] != orders[2]


def test_a_last_batch_of_one_joins_the_one_before() -> None:
    assert [len(batch) for batch in epoch_batches(range(11), 5, 0, 0)] == [5, 6]
    assert [len(batch) for batch in epoch_batches(range(12), 5, 0, 0)] == [5, 5, 2]
    assert [len(batch) for batch in epoch_batches(range(3), 1, 0, 0)] == [1, 1, 1]
    assert [len(batch) for batch in epoch_batches(range(1), 5, 0, 0)] == [1]


def test_the_best_epoch_is_kept_or_the_last(tiny_part: CachedPart, tmp_path: Path) -> None:
    # The same training, so the only difference is which weights are handed over.
    best = _train(tiny_part, tmp_path / "best", epochs=6, lr=0.05)
    last = _train(tiny_part, tmp_path / "last", epochs=6, lr=0.05, keep="last")
    scores = [row["val_score"] for row in best.history]
    assert best.results["best/epoch"] == scores.index(max(scores))
    assert best.results["best/val_score"] == max(scores)
    assert best.results["final/val_score"] == scores[-1]
    assert _equal(best, last) == (best.results["best/epoch"] == 5)


def test_early_stopping_stops_after_so_many_epochs_without_a_better_one(tiny_part: CachedPart, tmp_path: Path) -> None:
    result = _train(tiny_part, tmp_path, epochs=30, lr=1e-9, early_stopping=2, monitor="val_score")
    assert len(result.history) - 1 - result.results["best/epoch"] == 2
    assert len(result.history) < 30


def test_statistics_come_from_the_training_part_alone(tiny_part: CachedPart, tmp_path: Path) -> None:
    result = _train(tiny_part, tmp_path, epochs=1)
    seen = tiny_part.images[:8].reshape(-1, 3) / 255
    np.testing.assert_allclose(result.mean, seen.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(result.std, seen.std(axis=0), rtol=1e-6)


def test_classes_without_a_pixel_are_warned_of(tiny_part: CachedPart, tmp_path: Path) -> None:
    warnings = _training(tiny_part, tmp_path, class_weights="enet").warnings
    assert len(warnings) == 1
    assert "3 Swimming Pool" in warnings[0]
    assert "5 Grass" not in warnings[0]


def test_a_loss_that_explodes_stops_with_the_remedy(tiny_part: CachedPart, tmp_path: Path) -> None:
    tiny_part.photos["pixels"] = 0  # the mean becomes infinite
    with pytest.raises(HarveysegError, match=r"loss became nan in epoch 1\. Lower train\.lr"):
        _train(tiny_part, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, r"train\.batch_size = 0: .*greater than or equal to 1"),
        ({"lr": -0.001}, r"train\.lr = -0\.001: .*greater than 0"),
        ({"epochs": 0}, r"train\.epochs = 0"),
        ({"optimiser": "sgd"}, r"train\.optimiser = 'sgd': .*'adam' or 'adamw'"),
        ({"encoder_weights": ""}, r"imagenet"),
        ({"learning_rate": 1}, r"train\.learning_rate: unknown key\. Known are: .*lr"),
    ],
)
def test_impossible_settings_name_the_key_and_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HarveysegError, match=message):
        parse(TrainParams, {**BASE, **changes}, "train")


def test_a_fold_without_photos_is_refused(tiny_part: CachedPart, tmp_path: Path) -> None:
    with pytest.raises(HarveysegError, match="0 validation photos"):
        Training(
            SPEC, parse(TrainParams, BASE, "train"), tiny_part, np.arange(12), np.arange(0), Checkpoint(tmp_path, "k")
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_device_is_refused(tiny_part: CachedPart, tmp_path: Path) -> None:
    with pytest.raises(HarveysegError, match="no usable CUDA device"):
        _training(tiny_part, tmp_path, device="cuda")
