"""The learner's parts are put together as the recipe says."""

from pathlib import Path

import numpy as np
import pytest
import torch

from harveyseg.classes import HARVEY25
from harveyseg.data.cache import CachedPart
from harveyseg.errors import HarveysegError
from harveyseg.inference.network_file import save_network
from harveyseg.training.learner import Learner
from helpers.training import SPEC, train_params


@pytest.mark.parametrize("scheme", ["report", "enet", "sqrt"])
def test_classes_without_a_pixel_weigh_nothing_and_are_warned_of(
    tiny_part: CachedPart, caplog: pytest.LogCaptureFixture, scheme: str
) -> None:
    learner = Learner(SPEC, train_params(class_weights=scheme), HARVEY25, tiny_part.photos, steps=1)
    (warning,) = caplog.messages
    assert "3 Swimming Pool" in warning
    assert "5 Grass" not in warning
    assert learner.loss.pixel_weights is not None
    assert learner.loss.pixel_weights.nonzero().flatten().tolist() == [5, 23]


@pytest.mark.parametrize("loss", [{}, {"dice": 0.5, "presence": 0.2, "background_weight": 0.3}], ids=str)
def test_the_validation_loss_does_not_depend_on_the_batch_size(tiny_part: CachedPart, loss: dict[str, float]) -> None:
    params = train_params(class_weights="sqrt", loss=loss)
    learner = Learner({"network": "unet", "width": 4}, params, HARVEY25, tiny_part.photos, steps=1)
    assert tiny_part.masks is not None
    tiny_part.masks[0] = 5  # photos of different mixtures, whose weights have different sums
    tiny_part.masks[1, :4] = 0
    sizes = (1, 3, 12)
    losses = [learner.validate(tiny_part.images, tiny_part.masks, range(12), size)["val_loss"] for size in sizes]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    if not loss:
        each = []
        for image, mask in zip(tiny_part.images, tiny_part.masks, strict=True):
            pixels = (torch.from_numpy(image) / 255 - torch.tensor(learner.mean)) / torch.tensor(learner.std)
            logits = learner.network.eval()(pixels.permute(2, 0, 1)[None])
            target = torch.from_numpy(mask)[None].long()
            each.append(float(torch.nn.functional.cross_entropy(logits, target, learner.loss.pixel_weights).detach()))
        assert losses[0] == pytest.approx(sum(each) / 12, rel=1e-4)


def test_a_training_starts_from_a_trained_network(tiny_part: CachedPart, tmp_path: Path) -> None:
    trained = Learner(SPEC, train_params(seed=7), HARVEY25, tiny_part.photos, steps=1)
    with torch.no_grad():
        for parameter in trained.network.parameters():
            parameter.add_(0.5)
    path = tmp_path / "weights.safetensors"
    save_network(path, trained.weights(), SPEC, trained.mean, trained.std, (64, 64), HARVEY25)
    params = train_params(init=str(path), optimiser={"ema": 0.9})
    learner = Learner(SPEC, params, HARVEY25, tiny_part.photos, steps=1)
    # The moving average starts from them as well.
    assert all(torch.equal(value, trained.weights()[name]) for name, value in learner.weights().items())


def test_the_average_is_what_is_written(tiny_part: CachedPart) -> None:
    learner = Learner(SPEC, train_params(optimiser={"ema": 0.9}), HARVEY25, tiny_part.photos, steps=1)
    before = learner.weights()
    with torch.no_grad():
        for parameter in learner.network.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in learner.weights().items())
    plain = Learner(SPEC, train_params(), HARVEY25, tiny_part.photos, steps=1)
    assert plain.averaged is plain.network


def gradients(learner: Learner) -> dict[str, torch.Tensor]:
    found = {name: value.grad for name, value in learner.network.named_parameters()}
    return {name: value.clone() for name, value in found.items() if value is not None}


def test_gradients_summed_over_parts_are_those_of_the_joint_batch(tiny_part: CachedPart) -> None:
    """Without batch norm. Seven samples in parts of 3, 2 and 2, whose pixels' weights have different sums."""
    assert tiny_part.masks is not None
    masks = torch.from_numpy(np.array(tiny_part.masks[:7]))
    masks[0] = 5
    images = torch.from_numpy(np.array(tiny_part.images[:7]))
    recoloured = 255 - images
    loss = {"dice": 0.5, "presence": 0.2, "background_weight": 0.3}
    self_training = {"weight": 0.5, "start": 0.0, "confidence": 0.0}
    found = {}
    for parts in (1, 3):
        torch.manual_seed(0)
        params = train_params(
            batch_size=7, accumulate=parts, class_weights="sqrt", loss=loss, optimiser={"ema": 0.9},
            self_training=self_training,
        )  # fmt: skip
        spec = {"network": "unet", "width": 4, "dropout": 0.0, "batch_norm": "none"}
        learner = Learner(spec, params, HARVEY25, tiny_part.photos, steps=1)
        before = {name: value.clone() for name, value in learner.network.state_dict().items()}
        mean_loss = learner.train_epoch([((images, masks), (images, recoloured))])
        found[parts] = mean_loss, gradients(learner)
    assert found[3][0] == pytest.approx(found[1][0], abs=1e-6)
    torch.testing.assert_close(found[3][1], found[1][1], rtol=1e-5, atol=1e-6)
    assert max(float(value.abs().max()) for value in found[1][1].values()) > 1e-2

    # And the joint batch is what autograd says of the whole batch at once.
    learner.network.load_state_dict(before)
    pixels = (images / 255 - torch.tensor(learner.mean)) / torch.tensor(learner.std)
    inputs, views = (
        pixels.permute(0, 3, 1, 2),
        (1 - images / 255 - torch.tensor(learner.mean)) / torch.tensor(learner.std),
    )
    labels = learner.network(inputs).argmax(1)
    learner.network.zero_grad()
    taught = torch.nn.functional.cross_entropy(learner.network(views.permute(0, 3, 1, 2)), labels)
    (learner.loss(learner.network(inputs), masks.long()) + 0.5 * taught).backward()
    torch.testing.assert_close(gradients(learner), found[3][1], rtol=1e-5, atol=1e-6)


def test_a_batch_takes_one_step_whatever_its_parts(tiny_part: CachedPart) -> None:
    assert tiny_part.masks is not None
    images, masks = torch.from_numpy(np.array(tiny_part.images[:4])), torch.from_numpy(np.array(tiny_part.masks[:4]))
    params = train_params(accumulate=4, schedule={"name": "one_cycle"})
    learner = Learner(SPEC, params, HARVEY25, tiny_part.photos, steps=3)
    rates = []
    for _ in range(3):
        learner.train_epoch([((images, masks), None)])
        rates.append(learner.lr)
    steps = {int(state["step"]) for state in learner.optimiser.state.values()}
    assert steps == {3}
    assert len(set(rates)) == 3


def test_a_batch_has_at_least_a_sample_for_each_part() -> None:
    assert train_params(batch_size=4, accumulate=4).accumulate == 4
    with pytest.raises(HarveysegError, match=r"train\.accumulate = 5: must be at most `batch_size`, which is 4"):
        train_params(batch_size=4, accumulate=5)
