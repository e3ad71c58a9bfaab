"""Training on twelve tiny photos: really learns, is reproducible, and resumes to the very same weights."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harveyseg.config.settings import parse
from harveyseg.data.cache import CachedPart
from harveyseg.errors import HarveysegError
from harveyseg.models import build
from harveyseg.pipeline.check import merge
from harveyseg.score import confusion, metrics
from harveyseg.training.checkpoint import Checkpoint
from harveyseg.training.params import TrainParams
from harveyseg.training.trainer import Result, Training, at_output_stride

SPEC = {"network": "unet", "width": 4, "dropout": 0.2}
BASE: dict[str, Any] = {
    "epochs": 3, "batch_size": 4, "lr": 0.01, "seed": 0, "device": "cpu", "precision": "fp32", "threads": 1,
    "workers": 0, "encoder_weights": None, "class_weights": "none", "loss": {},
    "optimiser": {"name": "adam", "weight_decay": 0.0001},
    "schedule": {"name": "constant", "plateau_patience": 1},
    "validation": {"monitor": "argmax_score", "keep": "best", "early_stopping": None},
    "augmentation": {},
}  # fmt: skip
CROPS = {"crop": 32, "zoom": 0.3, "d4": 0.9, "contrast": 0.2, "colour": 0.2}
RARE = {"rare_class_probability": 0.5}
EMA = {"ema": 0.9}
LAST = {"keep": "last"}
COLOURS = {"contrast": 0.5, "colour": 0.3}
SELF_TRAINING = {"weight": 1.0, "start": 0.0, "confidence": 0.0}


def _training(part: CachedPart, folder: Path, **changes: Any) -> Training:
    params = parse(TrainParams, merge(BASE, changes), "train")
    unlabelled = dataclasses.replace(part, masks=None)  # as the test part: photos alone
    return Training(SPEC, params, part, np.arange(8), np.arange(8, 12), Checkpoint(folder, "key"), unlabelled)


def _train(part: CachedPart, folder: Path, **changes: Any) -> Result:
    training = _training(part, folder, **changes)
    list(training.run())
    return training.finished()


def _equal(one: Result, other: Result) -> bool:
    return one.state.keys() == other.state.keys() and all(torch.equal(one.state[k], other.state[k]) for k in one.state)


def test_it_learns_two_classes_that_colour_tells_apart(tiny_part: CachedPart, tmp_path: Path) -> None:
    result = _train(tiny_part, tmp_path, epochs=25, lr=0.02)
    # all empty scores 22/24 here: two classes of 24 are in each photo.
    assert result.results["best/val_argmax_score"] > 0.99
    assert result.results["final/train_loss"] < 0.5 * result.history[0]["train_loss"]


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(tiny_part: CachedPart, tmp_path: Path) -> None:
    first = _train(tiny_part, tmp_path / "1")
    assert _equal(first, _train(tiny_part, tmp_path / "2"))
    assert not _equal(first, _train(tiny_part, tmp_path / "3", seed=1))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "augmentation": CROPS,
            "sampling": {"crops_per_photo": 2, **RARE},
            "optimiser": EMA,
            "self_training": SELF_TRAINING,
            "epochs": 2,
        },
    ],
)
def test_the_number_of_workers_does_not_change_the_weights(
    tiny_part: CachedPart, tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert _equal(_train(tiny_part, tmp_path / "1", **changes), _train(tiny_part, tmp_path / "2", workers=2, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": {"name": "one_cycle"}, "optimiser": {"name": "adamw", "ema": 0.9}},
        {"schedule": {"name": "plateau", "plateau_patience": 0}, "validation": LAST},
        {"schedule": {"name": "cosine"}, "loss": {"dice": 0.5}, "class_weights": "enet", "precision": "bf16"},
        {
            "sampling": {"crops_per_photo": 2, **RARE}, "optimiser": EMA, "validation": {"every": 2, **LAST},
            "augmentation": CROPS, "loss": {"label_smoothing": 0.1, "background_weight": 0.5, "presence": 0.1},
        },
        {
            "optimiser": EMA, "self_training": {"weight": 1.0, "start": 0.4, "confidence": 0.0},
            "augmentation": COLOURS,
        },
    ],
)  # fmt: skip
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


def test_the_best_epoch_is_kept_or_the_last(tiny_part: CachedPart, tmp_path: Path) -> None:
    # The same training, so the only difference is which weights are handed over.
    best = _train(tiny_part, tmp_path / "best", epochs=6, lr=0.05)
    last = _train(tiny_part, tmp_path / "last", epochs=6, lr=0.05, validation=LAST)
    scores = [row["val_argmax_score"] for row in best.history]
    assert best.results["best/epoch"] == scores.index(max(scores))
    assert best.results["best/val_argmax_score"] == max(scores)
    assert best.results["final/val_argmax_score"] == scores[-1]
    assert _equal(best, last) == (best.results["best/epoch"] == 5)


def test_early_stopping_stops_after_that_many_epochs_without_a_better_one(
    tiny_part: CachedPart, tmp_path: Path
) -> None:
    result = _train(tiny_part, tmp_path, epochs=30, lr=1e-9, validation={"early_stopping": 2})
    assert len(result.history) - 1 - result.results["best/epoch"] == 2
    assert len(result.history) < 30


def test_statistics_come_from_the_training_part_alone(tiny_part: CachedPart, tmp_path: Path) -> None:
    result = _train(tiny_part, tmp_path, epochs=1)
    seen = tiny_part.images[:8].reshape(-1, 3) / 255
    np.testing.assert_allclose(result.mean, seen.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(result.std, seen.std(axis=0), rtol=1e-6)


@pytest.mark.parametrize("scheme", ["report", "enet", "sqrt"])
def test_classes_without_a_pixel_weigh_nothing_and_are_warned_of(
    tiny_part: CachedPart, tmp_path: Path, scheme: str
) -> None:
    training = _training(tiny_part, tmp_path, class_weights=scheme)
    assert len(training.warnings) == 1
    assert "3 Swimming Pool" in training.warnings[0]
    assert "5 Grass" not in training.warnings[0]
    assert training._loss.pixel_weights is not None
    assert training._loss.pixel_weights.nonzero().flatten().tolist() == [5, 23]


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
        ({"optimiser": {"name": "sgd"}}, r"train\.optimiser\.name = 'sgd': .*'adam' or 'adamw'"),
        ({"encoder_weights": ""}, r"imagenet"),
        ({"learning_rate": 1}, r"train\.learning_rate: unknown key\. Known are: .*lr"),
    ],
)
def test_impossible_settings_name_the_key_and_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HarveysegError, match=message):
        parse(TrainParams, merge(BASE, changes), "train")


def test_a_fold_without_photos_is_refused(tiny_part: CachedPart, tmp_path: Path) -> None:
    with pytest.raises(HarveysegError, match="0 validation photos"):
        Training(
            SPEC, parse(TrainParams, BASE, "train"), tiny_part, np.arange(12), np.arange(0), Checkpoint(tmp_path, "k")
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_device_is_refused(tiny_part: CachedPart, tmp_path: Path) -> None:
    with pytest.raises(HarveysegError, match="no usable CUDA device"):
        _training(tiny_part, tmp_path, device="cuda")


def test_an_epoch_has_crops_per_photo_steps_more(tiny_part: CachedPart, tmp_path: Path) -> None:
    """8 photos, 3 crops of each, batches of 4: 6 steps an epoch, and one_cycle ends with the last of them."""
    changes = {"sampling": {"crops_per_photo": 3}, "schedule": {"name": "one_cycle"}, "epochs": 2}
    training = _training(tiny_part, tmp_path, **changes)
    rates: list[float] = []
    training._optimiser.register_step_pre_hook(lambda optimiser, *_: rates.append(optimiser.param_groups[0]["lr"]))
    list(training.run())
    assert len(rates) == 12
    assert np.argmax(rates) in (3, 4)  # 30% of 12 rise
    assert 0 < rates[-1] < 0.05 * max(rates)


def test_validating_every_second_epoch_changes_no_weight_and_leaves_its_figures_out(
    tiny_part: CachedPart, tmp_path: Path
) -> None:
    always = _train(tiny_part, tmp_path / "1", epochs=5, validation=LAST, optimiser=EMA)
    training = _training(tiny_part, tmp_path / "2", epochs=5, validation={"every": 2, **LAST}, optimiser=EMA)
    events = list(training.run())
    seldom = training.finished()
    assert _equal(always, seldom)
    assert ["val_loss" in row for row in seldom.history] == [False, True, False, True, True]  # the last one always
    for one, other in zip(always.history, seldom.history, strict=True):
        assert one["train_loss"] == other["train_loss"]
        assert other.get("val_loss", one["val_loss"]) == one["val_loss"]
    scores = [row.get("val_argmax_score", -1) for row in seldom.history]
    assert seldom.results["best/epoch"] == scores.index(max(scores))
    assert seldom.results["final/val_argmax_score"] == scores[-1]
    assert "score" not in str(events[0])
    assert "score" in str(events[1])


def test_early_stopping_waits_for_a_validation(tiny_part: CachedPart, tmp_path: Path) -> None:
    result = _train(tiny_part, tmp_path, epochs=30, lr=1e-9, validation={"early_stopping": 2, "every": 4})
    assert "val_loss" in result.history[-1]
    assert len(result.history) < 30


@pytest.mark.parametrize("stride", [2, 4])
def test_the_target_is_the_pixel_right_below_the_centre_of_each_block(stride: int) -> None:
    target = torch.arange(64).reshape(1, 8, 8)
    taken = at_output_stride(target, torch.zeros(1, 25, 8 // stride, 8 // stride))
    expected = {
        2: [[9, 11, 13, 15], [25, 27, 29, 31], [41, 43, 45, 47], [57, 59, 61, 63]],
        4: [[18, 22], [50, 54]],
    }
    assert taken.tolist() == [expected[stride]]
    assert torch.equal(at_output_stride(target, torch.zeros(1, 25, 8, 8)), target)


def test_coarse_logits_are_learnt_and_validated_at_the_photos_size(tiny_part: CachedPart, tmp_path: Path) -> None:
    params = parse(TrainParams, merge(BASE, {"epochs": 20, "lr": 0.02, "validation": LAST}), "train")
    spec = {"network": "unet", "width": 4, "stem_stride": 2}
    training = Training(spec, params, tiny_part, np.arange(8), np.arange(8, 12), Checkpoint(tmp_path, "key"))
    list(training.run())
    result = training.finished()
    network = build(spec, None).eval()
    network.load_state_dict(result.state)
    assert tiny_part.masks is not None
    counts, losses = [], []
    for row in range(8, 12):
        photo = torch.from_numpy(tiny_part.images[row : row + 1]).permute(0, 3, 1, 2) / 255
        normalised = (photo - torch.tensor(result.mean).view(3, 1, 1)) / torch.tensor(result.std).view(3, 1, 1)
        logits = network(normalised.float()).detach()
        assert logits.shape == (1, 25, 16, 16)
        enlarged = torch.nn.functional.interpolate(logits, scale_factor=2, mode="bilinear")
        truth = torch.from_numpy(tiny_part.masks[row : row + 1]).long()
        losses.append(float(torch.nn.functional.cross_entropy(enlarged, truth)))
        counts.append(confusion(tiny_part.masks[row], enlarged[0].argmax(0).to(torch.uint8).numpy()))
    assert result.results["final/val_argmax_score"] == pytest.approx(
        metrics(np.stack(counts))["argmax_score"], abs=1e-3
    )
    assert result.results["final/val_loss"] == pytest.approx(np.mean(losses), rel=1e-3)
    assert result.results["final/val_argmax_score"] > 22 / 24  # more than all empty


def test_whole_photos_are_validated_in_batches_no_larger_than_the_crops(tiny_part: CachedPart, tmp_path: Path) -> None:
    large = dataclasses.replace(
        tiny_part,
        images=tiny_part.images.repeat(2, axis=1).repeat(2, axis=2),
        masks=None if tiny_part.masks is None else tiny_part.masks.repeat(2, axis=1).repeat(2, axis=2),
        size=(64, 64),
    )
    training = _training(large, tmp_path, epochs=1, augmentation={"crop": 32})
    shapes: set[tuple[int, tuple[int, ...]]] = set()
    training._network.register_forward_pre_hook(
        lambda network, inputs: shapes.add((network.training, tuple(inputs[0].shape)))
    )
    list(training.run())
    assert shapes == {(True, (4, 3, 32, 32)), (False, (1, 3, 64, 64))}


def test_sampling_without_a_rare_class_is_warned_of(tiny_part: CachedPart, tmp_path: Path) -> None:
    training = _training(tiny_part, tmp_path, augmentation=CROPS, sampling=RARE)
    assert training.warnings == [
        "sampling.rare_class_probability: no class is rare in the training part, so crops are drawn evenly"
    ]
    assert tiny_part.masks is not None
    tiny_part.masks[3, 5, 5] = 8
    assert _training(tiny_part, tmp_path, augmentation=CROPS, sampling=RARE).warnings == []


def test_pseudo_labels_are_learnt_from_the_start_on_and_only_sure_ones(tiny_part: CachedPart, tmp_path: Path) -> None:
    def train(name: str, **changes: Any) -> Result:
        settings: dict[str, Any] = {"optimiser": EMA, "validation": LAST, "epochs": 4, "augmentation": COLOURS}
        training = _training(tiny_part, tmp_path / name, **settings, **changes)
        # Without dropout and with batch norm's own statistics alone, a step that learns nothing changes nothing.
        for module in training._network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        list(training.run())
        return training.finished()

    none = train("none")
    half = train("half", self_training={"weight": 1.0, "start": 0.5, "confidence": 0.0})
    losses = [[row["train_loss"] for row in result.history] for result in (none, half)]
    assert losses[0][:2] == losses[1][:2]
    assert losses[0][3] != losses[1][3]
    assert not _equal(none, half)
    unsure = train("unsure", self_training={"weight": 1.0, "start": 0.5, "confidence": 0.999999})
    parameters = {name for name in none.state if "running" not in name and "batches" not in name}
    assert all(torch.equal(none.state[name], unsure.state[name]) for name in parameters)
    doubled = train("double", self_training={"weight": 2.0, "start": 0.5, "confidence": 0.0})
    assert not _equal(half, doubled)


def test_the_self_training_loss_is_the_formula(tiny_part: CachedPart, tmp_path: Path) -> None:
    self_training = {"weight": 3.0, "start": 0.0, "confidence": 0.045}
    training = _training(tiny_part, tmp_path, optimiser={"ema": 0.5}, self_training=self_training)
    assert training._ema is not None
    with torch.no_grad():
        for parameter in training._network.parameters():
            parameter.mul_(1.3)  # the student goes on, the teacher stays behind
    training._network.eval()
    plain, recoloured = torch.from_numpy(tiny_part.images[:2]), torch.from_numpy(255 - tiny_part.images[:2])
    loss = float(training._self_training_loss(plain, recoloured).detach())
    teacher = build(SPEC, None).eval()
    teacher.load_state_dict(training._ema.weights())
    labels = teacher(training._normalise(plain)).softmax(1).detach().numpy()
    student = training._network(training._normalise(recoloured)).log_softmax(1).detach().numpy()
    total, sure = 0.0, 0
    for b in range(2):
        for y in range(32):
            for x in range(32):
                label = int(labels[b, :, y, x].argmax())
                if labels[b, label, y, x] > 0.045:
                    total, sure = total - student[b, label, y, x], sure + 1
    assert 0 < sure < 2 * 32 * 32
    assert loss == pytest.approx(3 * total / (2 * 32 * 32), rel=1e-4)


def test_self_training_without_photos_is_refused(tiny_part: CachedPart, tmp_path: Path) -> None:
    params = parse(TrainParams, merge(BASE, {"optimiser": EMA, "self_training": SELF_TRAINING}), "train")
    with pytest.raises(HarveysegError, match=r"train\.self_training: there is no test photo"):
        Training(SPEC, params, tiny_part, np.arange(8), np.arange(8, 12), Checkpoint(tmp_path, "key"))
