"""Training on twelve tiny photos: really learns, is reproducible, and resumes to the very same weights."""

import dataclasses
import gc
import math
import multiprocessing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from harveyseg.classes import HARVEY25
from harveyseg.data.cache import CachedPart
from harveyseg.errors import HarveysegError
from harveyseg.models.network import build
from harveyseg.models.networks.unet import Unet
from harveyseg.score import argmax_metrics, confusion
from harveyseg.training.checkpoint import Checkpoint
from harveyseg.training.dataset import Samples
from harveyseg.training.history import VALIDATION
from harveyseg.training.learner import Learner
from harveyseg.training.trainer import Result, Training
from helpers.training import SPEC, make_training, train, train_params

CROPS = {"crop": 32, "zoom": 0.3, "d4": 0.9, "contrast": 0.2, "colour": 0.2}
RARE = {"rare_class_probability": 0.5}
EMA = {"ema": 0.9}
LAST = {"keep": "last"}
COLOURS = {"contrast": 0.5, "colour": 0.3}
SELF_TRAINING = {"weight": 1.0, "start": 0.0, "confidence": 0.0}


def equal_weights(first: Result, second: Result) -> bool:
    return first.state.keys() == second.state.keys() and all(
        torch.equal(value, second.state[name]) for name, value in first.state.items()
    )


def test_it_learns_two_classes_that_colour_tells_apart(tiny_part: CachedPart, tmp_path: Path) -> None:
    result = train(tiny_part, tmp_path, epochs=25, lr=0.02)
    # all empty scores 22/24 here: two classes of 24 are in each photo.
    assert result.results["best/val_argmax_score"] > 0.99
    assert {type(value) for value in result.results.values()} == {float}  # as a record that is read back has them
    assert result.results["written/train_loss"] < 0.5 * result.history[0]["train_loss"]


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(tiny_part: CachedPart, tmp_path: Path) -> None:
    first = train(tiny_part, tmp_path / "1")
    assert equal_weights(first, train(tiny_part, tmp_path / "2"))
    assert not equal_weights(first, train(tiny_part, tmp_path / "3", seed=1))


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
    assert equal_weights(
        train(tiny_part, tmp_path / "1", **changes), train(tiny_part, tmp_path / "2", workers=2, **changes)
    )


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
    whole = train(tiny_part, tmp_path / "whole", **changes)
    for stop in (1, 2, 3):
        folder = tmp_path / f"stopped-{stop}"
        events = make_training(tiny_part, folder, **changes).run()
        for _ in range(stop):
            next(events)
        events.close()
        torch.manual_seed(99)  # a new process starts elsewhere
        resumed = train(tiny_part, folder, **changes)
        assert equal_weights(whole, resumed), f"stopped after epoch {stop}"
        drop = ("time_ms", "seconds", "images_per_second")
        for one, other in zip(whole.history, resumed.history, strict=True):
            assert {k: v for k, v in one.items() if k not in drop} == {k: v for k, v in other.items() if k not in drop}


@pytest.mark.parametrize("epochs", [1, 5])
def test_epochs_means_exactly_that_many_passes(tiny_part: CachedPart, tmp_path: Path, epochs: int) -> None:
    events = list(make_training(tiny_part, tmp_path, epochs=epochs).run())
    assert [event.row["epoch"] for event in events] == list(range(1, epochs + 1))
    assert str(events[-1]).startswith(f"epoch {epochs}/{epochs}, train loss ")


def test_the_best_epoch_is_kept_or_the_last(
    tiny_part: CachedPart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same training, so the only difference is which weights are handed over. Real scores of so small a training
    # depend on PyTorch's version; these are best in the third epoch, and as good again in the fourth.
    kept, scores = 2, (0.1, 0.3, 0.7, 0.7, 0.2, 0.6)
    validated = iter(scores * 2)
    monkeypatch.setattr(Learner, "validate", lambda *_: dict(zip(VALIDATION, (1.0, next(validated), 1.0), strict=True)))
    best = train(tiny_part, tmp_path / "best", epochs=6, lr=0.05)
    last = train(tiny_part, tmp_path / "last", epochs=6, lr=0.05, validation=LAST)
    assert tuple(row["val_argmax_score"] for row in best.history) == scores
    for result, written in ((best, kept), (last, 5)):
        row = result.history[written]
        assert row["epoch"] == written + 1
        assert {name: result.results[f"written/{name}"] for name in row if f"written/{name}" in result.results} == {
            name: row[name] for name in ("epoch", "train_loss", *VALIDATION)
        }
        assert result.results["best/epoch"] == kept + 1
        assert str(result).startswith(f"weights of epoch {written + 1}, train loss ")
    assert not equal_weights(best, last)
    validated = iter(scores)
    shorter = train(tiny_part, tmp_path / "shorter", epochs=6, lr=0.05, validation={"early_stopping": 2})
    assert len(shorter.history) == 5
    assert equal_weights(best, shorter)


def test_early_stopping_stops_after_that_many_epochs_without_a_better_one(
    tiny_part: CachedPart, tmp_path: Path
) -> None:
    result = train(tiny_part, tmp_path, epochs=30, lr=1e-9, validation={"early_stopping": 2})
    assert len(result.history) - result.results["best/epoch"] == 2
    assert len(result.history) < 30


@pytest.mark.parametrize("monitor", ["loss", "argmax_score"])
def test_a_validation_that_is_not_a_number_is_beaten_by_any_other(
    tiny_part: CachedPart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, monitor: str
) -> None:
    """NaN logits are class 0 everywhere, which scores as all empty: more than the first epochs of a real network."""
    figures = iter([(math.nan, 0.9), (5.0, 0.2), (math.nan, 0.9), (6.0, 0.1), (7.0, 0.1), (8.0, 0.1)])
    monkeypatch.setattr(Learner, "validate", lambda *_: dict(zip(VALIDATION, (*next(figures), 1.0), strict=True)))
    result = train(tiny_part, tmp_path, epochs=6, validation={"monitor": monitor, "early_stopping": 3})
    assert result.results["best/val_loss"] == 5
    assert len(result.history) == 5  # three after the second
    # MLflow and JSON hold no NaN: such an epoch counts as one that was not validated.
    assert ["val_loss" in row for row in result.history] == [False, True, False, True, True]


def test_a_training_without_a_finite_validation_of_what_it_writes_stops_with_the_remedy(
    tiny_part: CachedPart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, losses in enumerate(((math.nan, math.inf), (5.0, math.nan))):
        steps = [dict.fromkeys(VALIDATION, 0.9) | {"val_loss": loss} for loss in losses]
        monkeypatch.setattr(Learner, "validate", Mock(side_effect=steps))
        with pytest.raises(HarveysegError, match=r"validation loss became nan in epoch 2\. Lower train\.lr"):
            train(tiny_part, tmp_path / str(number), epochs=2, validation=LAST)


@pytest.mark.parametrize("labelled", [True, False])
def test_the_last_line_says_that_no_class_is_predicted(tiny_part: CachedPart, tmp_path: Path, labelled: bool) -> None:
    assert tiny_part.masks is not None
    if not labelled:
        tiny_part.masks[:] = 0  # the network learns that everything is background
    result = train(tiny_part, tmp_path, epochs=8, lr=0.05, validation=LAST)
    network = build(SPEC, 25, None).eval()
    network.load_state_dict(result.state)
    pixels = (torch.from_numpy(tiny_part.images[8:]) / 255 - torch.tensor(result.mean)) / torch.tensor(result.std)
    maps = network(pixels.permute(0, 3, 1, 2)).argmax(dim=1).numpy()
    predicted = [len(set(np.unique(classes)) - {0}) for classes in maps]
    assert result.results["written/val_predicted_classes"] == np.mean(predicted)
    assert any(predicted) == labelled
    assert ("no scored class is predicted in any held-out photo" in str(result)) == (not labelled)


POOLING = {"network": "smp", "architecture": "DeepLabV3Plus", "encoder": "resnet18"}


@pytest.mark.parametrize(("photos", "batch_size", "accumulate"), [(1, 4, 1), (3, 1, 1), (3, 3, 2)])
def test_a_single_sample_is_refused_before_training_where_the_network_pools_to_one_pixel(
    tiny_part: CachedPart, tmp_path: Path, photos: int, batch_size: int, accumulate: int
) -> None:
    def training(**changes: Any) -> Training:
        params = train_params(epochs=1, **changes)
        return Training(POOLING, params, tiny_part, np.arange(photos), np.arange(8, 12), Checkpoint(tmp_path, "key"))

    with pytest.raises(HarveysegError, match=r"cannot be trained on one sample of 32x32 pixels at a time"):
        next(training(batch_size=batch_size, accumulate=accumulate).run())
    crops = {"sampling": {"crops_per_photo": 2}}
    assert len(list(training(batch_size=4, **crops).run())) == 1  # two samples of one photo do


def test_a_last_batch_of_one_sample_joins_the_batch_before(tiny_part: CachedPart, tmp_path: Path) -> None:
    """Nine samples in batches of four and of more than there are photos: nothing is dropped."""
    for batch_size in (4, 100):
        params = train_params(epochs=1, batch_size=batch_size)
        checkpoint = Checkpoint(tmp_path, str(batch_size))
        training = Training(POOLING, params, tiny_part, np.arange(9), np.arange(9, 12), checkpoint)
        assert len(list(training.run())) == 1


def test_statistics_come_from_the_training_part_alone(tiny_part: CachedPart, tmp_path: Path) -> None:
    result = train(tiny_part, tmp_path, epochs=1)
    seen = tiny_part.images[:8].reshape(-1, 3) / 255
    np.testing.assert_allclose(result.mean, seen.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(result.std, seen.std(axis=0), rtol=1e-6)


def test_a_loss_that_explodes_stops_with_the_remedy(tiny_part: CachedPart, tmp_path: Path) -> None:
    tiny_part.photos["pixels"] = 0  # the mean becomes infinite
    with pytest.raises(HarveysegError, match=r"loss became nan in epoch 1\. Lower train\.lr"):
        train(tiny_part, tmp_path)


@pytest.mark.parametrize("loss", [{"presence": 0.2}, {"presence": 0.2, "dice": 0.5}], ids=str)
def test_a_training_with_the_presence_loss_that_diverges_stops_with_the_remedy(
    tiny_part: CachedPart, tmp_path: Path, loss: dict[str, float]
) -> None:
    huge_steps: dict[str, Any] = {"optimiser": {"name": "adamw", "weight_decay": 1e30}, "lr": 10, "epochs": 30}
    with pytest.raises(HarveysegError, match=r"loss became (nan|inf) in epoch \d+\. Lower train\.lr"):
        train(tiny_part, tmp_path, loss=loss, **huge_steps)


def test_weights_that_the_last_step_broke_are_not_written(tiny_part: CachedPart, tmp_path: Path) -> None:
    """One step of one epoch: its loss is finite, the weights after it are not."""
    huge_step: dict[str, Any] = {
        "optimiser": {"name": "adamw", "weight_decay": 1e38},
        "lr": 10,
        "epochs": 1,
        "batch_size": 8,
    }
    with pytest.raises(HarveysegError, match=r"Lower train\.lr"):
        train(tiny_part, tmp_path, validation=LAST, **huge_step)


@pytest.mark.parametrize(
    ("changes", "samples"),
    [({}, "photos of 32x32 pixels"), ({"augmentation": CROPS}, "crops of 32x32 pixels")],
)
@pytest.mark.parametrize("in_training", [True, False])
def test_out_of_memory_names_batch_size_crop_and_precision(
    tiny_part: CachedPart, tmp_path: Path, changes: dict[str, Any], samples: str, in_training: bool
) -> None:
    def allocate(module: torch.nn.Module, _: tuple[torch.Tensor]) -> None:
        if isinstance(module, Unet) and module.training is in_training:
            torch.empty(2**50)  # 4 PiB: torch's own error

    hook = register_module_forward_pre_hook(allocate)
    try:
        with pytest.raises(HarveysegError) as caught:
            train(tiny_part, tmp_path, **changes)
    finally:
        hook.remove()
    assert str(caught.value) == (
        f"out of memory: training on cpu with train.batch_size = 4, train.accumulate = 1, {samples} and "
        "precision fp32. "
        "Raise train.accumulate, or lower train.batch_size, train.augmentation.crop or resize-cache.size."
    )


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs Linux")
def test_a_small_shared_memory_is_named(tiny_part: CachedPart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(samples: Samples, key: object) -> None:
        torch.UntypedStorage._new_shared(2**50)  # type: ignore[no-untyped-call]  # 1 PiB: torch fails, in a worker

    monkeypatch.setattr(Samples, "__getitem__", allocate)
    with pytest.raises(HarveysegError) as caught:
        train(tiny_part, tmp_path, workers=1)
    assert str(caught.value) == (
        "/dev/shm has too little room for what the workers load: training on cpu with train.batch_size = 4, "
        "train.accumulate = 1, photos of 32x32 pixels and precision fp32. "
        "Set train.workers to 0, or start the container with a larger --shm-size."
    )
    del caught  # its traceback holds the loader, and so the workers
    gc.collect()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_are_kept_from_epoch_to_epoch_and_end_with_the_training(
    tiny_part: CachedPart, tmp_path: Path, method: str
) -> None:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        training = make_training(tiny_part, tmp_path, workers=1, optimiser=EMA, self_training=SELF_TRAINING)
        workers = [{process.pid for process in multiprocessing.active_children()} for _ in training.run()]
        assert len(workers[0]) == 2  # of the labelled and of the unlabelled photos
        assert workers == [workers[0]] * 3
        assert not multiprocessing.active_children()
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert equal_weights(
        training.result(), train(tiny_part, tmp_path / "none", optimiser=EMA, self_training=SELF_TRAINING)
    )


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
        train_params(**changes)


def test_a_fold_without_photos_is_refused(tiny_part: CachedPart, tmp_path: Path) -> None:
    with pytest.raises(HarveysegError, match="0 validation photos"):
        Training(SPEC, train_params(), tiny_part, np.arange(12), np.arange(0), Checkpoint(tmp_path, "key"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_device_is_refused(tiny_part: CachedPart, tmp_path: Path) -> None:
    with pytest.raises(HarveysegError, match="no usable CUDA device"):
        train(tiny_part, tmp_path, device="cuda")


def test_an_epoch_has_crops_per_photo_steps_more(tiny_part: CachedPart, tmp_path: Path) -> None:
    """8 photos, 3 crops of each, batches of 4: 6 steps an epoch, and one_cycle ends with the last of them."""
    changes: dict[str, Any] = {"sampling": {"crops_per_photo": 3}, "schedule": {"name": "one_cycle"}, "epochs": 2}
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda optimiser, *_: rates.append(optimiser.param_groups[0]["lr"]))
    try:
        train(tiny_part, tmp_path, **changes)
    finally:
        hook.remove()
    assert len(rates) == 12
    assert np.argmax(rates) in (3, 4)  # 30% of 12 rise
    assert 0 < rates[-1] < 0.05 * max(rates)


def test_validating_every_second_epoch_changes_no_weight_and_leaves_its_figures_out(
    tiny_part: CachedPart, tmp_path: Path
) -> None:
    always = train(tiny_part, tmp_path / "1", epochs=5, validation=LAST, optimiser=EMA)
    training = make_training(tiny_part, tmp_path / "2", epochs=5, validation={"every": 2, **LAST}, optimiser=EMA)
    events = list(training.run())
    seldom = training.result()
    assert equal_weights(always, seldom)
    assert ["val_loss" in row for row in seldom.history] == [False, True, False, True, True]  # the last one always
    for one, other in zip(always.history, seldom.history, strict=True):
        assert one["train_loss"] == other["train_loss"]
        assert other.get("val_loss", one["val_loss"]) == one["val_loss"]
    scores = [row.get("val_argmax_score", -1) for row in seldom.history]
    assert seldom.results["best/epoch"] == scores.index(max(scores)) + 1
    assert seldom.results["written/val_argmax_score"] == scores[-1]
    assert "score" not in str(events[0])
    assert "score" in str(events[1])


def test_early_stopping_waits_for_a_validation(tiny_part: CachedPart, tmp_path: Path) -> None:
    result = train(tiny_part, tmp_path, epochs=30, lr=1e-9, validation={"early_stopping": 2, "every": 4})
    assert "val_loss" in result.history[-1]
    assert len(result.history) < 30


def test_coarse_logits_are_learnt_and_validated_at_the_photos_size(tiny_part: CachedPart, tmp_path: Path) -> None:
    spec = {"network": "unet", "width": 4, "stem_stride": 2}
    result = train(tiny_part, tmp_path, spec, epochs=20, lr=0.02, validation=LAST)
    network = build(spec, 25, None).eval()
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
        counts.append(confusion(tiny_part.masks[row], enlarged[0].argmax(0).to(torch.uint8).numpy(), 25))
    assert result.results["written/val_argmax_score"] == pytest.approx(
        argmax_metrics(np.stack(counts), HARVEY25)["argmax_score"], abs=1e-3
    )
    assert result.results["written/val_loss"] == pytest.approx(np.mean(losses), rel=1e-3)
    assert result.results["written/val_argmax_score"] > 22 / 24  # more than all empty


def test_whole_photos_are_validated_in_batches_no_larger_than_the_crops(tiny_part: CachedPart, tmp_path: Path) -> None:
    large = dataclasses.replace(
        tiny_part,
        images=tiny_part.images.repeat(2, axis=1).repeat(2, axis=2),
        masks=None if tiny_part.masks is None else tiny_part.masks.repeat(2, axis=1).repeat(2, axis=2),
        size=(64, 64),
    )
    shapes: set[tuple[int, tuple[int, ...]]] = set()

    def record(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if isinstance(module, Unet):
            shapes.add((module.training, tuple(inputs[0].shape)))

    hook = register_module_forward_pre_hook(record)
    try:
        train(large, tmp_path, epochs=1, augmentation={"crop": 32})
    finally:
        hook.remove()
    assert shapes == {(True, (4, 3, 32, 32)), (False, (1, 3, 64, 64))}


def test_sampling_without_a_rare_class_is_warned_of(
    tiny_part: CachedPart, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert tiny_part.masks is not None
    changes: dict[str, Any] = {"augmentation": CROPS, "sampling": RARE, "epochs": 1}
    train(tiny_part, tmp_path / "none", **changes)
    (warning,) = caplog.messages
    assert warning.startswith("train.sampling.rare_class_probability: no class is rare in the training part")
    caplog.clear()
    tiny_part.masks[3, 5, 5] = 8
    train(tiny_part, tmp_path / "one", **changes)
    assert caplog.messages == []


def test_pseudo_labels_are_learnt_from_the_start_on_and_only_sure_ones(tiny_part: CachedPart, tmp_path: Path) -> None:
    def learn(name: str, **changes: Any) -> Result:
        # Without dropout and with batch norm's own statistics alone, a step that learns nothing changes nothing.
        spec = {**SPEC, "dropout": 0.0}
        return train(
            tiny_part, tmp_path / name, spec, optimiser=EMA, validation=LAST, epochs=4, augmentation=COLOURS, **changes
        )

    none = learn("none")
    half = learn("half", self_training={"weight": 1.0, "start": 0.5, "confidence": 0.0})
    losses = [[row["train_loss"] for row in result.history] for result in (none, half)]
    assert losses[0][:2] == losses[1][:2]
    assert losses[0][3] != losses[1][3]
    assert not equal_weights(none, half)
    unsure = learn("unsure", self_training={"weight": 1.0, "start": 0.5, "confidence": 0.999999})
    parameters = {name for name in none.state if "running" not in name and "batches" not in name}
    assert all(torch.equal(none.state[name], unsure.state[name]) for name in parameters)
    doubled = learn("double", self_training={"weight": 2.0, "start": 0.5, "confidence": 0.0})
    assert not equal_weights(half, doubled)


def test_self_training_without_photos_is_refused(tiny_part: CachedPart, tmp_path: Path) -> None:
    params = train_params(optimiser=EMA, self_training=SELF_TRAINING)
    with pytest.raises(HarveysegError, match=r"train\.self_training: there is no test photo"):
        Training(SPEC, params, tiny_part, np.arange(8), np.arange(8, 12), Checkpoint(tmp_path, "key"))


def test_looking_at_predictions_between_epochs_changes_no_weight(tiny_part: CachedPart, tmp_path: Path) -> None:
    undisturbed = train(tiny_part, tmp_path / "1", epochs=2, optimiser=EMA)
    training = make_training(tiny_part, tmp_path / "2", epochs=2, optimiser=EMA)
    with pytest.raises(RuntimeError, match="has not finished an epoch"):
        training.predict_held_out(2)
    for _ in training.run():
        panels = training.predict_held_out(2)
    assert equal_weights(training.result(), undisturbed)
    assert [image.tolist() for image, _, _ in panels] == [tiny_part.images[row].tolist() for row in (8, 11)]
    assert tiny_part.masks is not None
    assert [mask.tolist() for _, mask, _ in panels] == [tiny_part.masks[row].tolist() for row in (8, 11)]
    # The maps are those of the weights that are written, which validate() scored.
    counts = np.stack([confusion(mask, predicted, 25) for _, mask, predicted in training.predict_held_out(4)])
    score = training.result().history[-1]["val_argmax_score"]
    assert argmax_metrics(counts, HARVEY25)["argmax_score"] == pytest.approx(score, abs=1e-12)


def test_constructing_a_training_changes_nothing(tiny_part: CachedPart, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(4)
    training = make_training(tiny_part, tmp_path, seed=7, threads=threads + 1)
    assert torch.initial_seed() == 4
    assert torch.get_num_threads() == threads
    with pytest.raises(RuntimeError, match="not iterated to its end"):
        training.result()
