"""What every network promises, whatever its layers: the contract of :class:`harveyseg.models.network.Network`."""

import copy

import pytest
import torch

from harveyseg.errors import HarveysegError
from harveyseg.models import available
from harveyseg.models.network import BringsLoss, takes_encoder_weights, validate
from helpers.networks import CASES, NetworkCase, parameter_ids, random_photos, training_loss, two_vehicles

every_network = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])


def test_every_network_is_tested() -> None:
    assert {case.spec["network"] for case in CASES.values()} == set(available())


@every_network
@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_logits_have_the_photos_size_divided_by_the_stride(case: NetworkCase, size: tuple[int, int]) -> None:
    logits = case.make().eval()(random_photos(2, *size))
    assert logits.shape == (2, 25, size[0] // case.stride, size[1] // case.stride)
    assert logits.dtype == torch.float32


@every_network
def test_gradients_reach_every_parameter(case: NetworkCase) -> None:
    network = case.make()
    if isinstance(network, BringsLoss):
        training_loss(network, random_photos(), two_vehicles()).backward()  # type: ignore[no-untyped-call]
    else:
        network(random_photos()).square().mean().backward()
    for name, parameter in network.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert reached == (not name.startswith(case.unused)), name


@every_network
def test_eval_is_deterministic(case: NetworkCase) -> None:
    network = case.make().eval()
    assert torch.equal(network(random_photos()), network(random_photos()))


@every_network
def test_the_seed_decides_the_weights(case: NetworkCase) -> None:
    first = case.make(seed=3).state_dict()
    second = case.make(seed=3).state_dict()
    different = case.make(seed=4).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not all(torch.equal(value, different[name]) for name, value in first.items())


@every_network
def test_depth_groups_hold_every_parameter_once(case: NetworkCase) -> None:
    network = case.make()
    groups = network.depth_groups()
    assert sorted(parameter_ids(groups)) == sorted(id(parameter) for parameter in network.parameters())
    assert all(groups)


@every_network
def test_it_learns_from_a_batch_of_two(case: NetworkCase) -> None:
    network = case.make().to(memory_format=torch.channels_last).train()
    photos = random_photos().to(memory_format=torch.channels_last)
    masks = two_vehicles() if isinstance(network, BringsLoss) else torch.randint(25, (2, 64, 64))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = training_loss(network, photos, masks)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@every_network
def test_channels_last_and_bfloat16_stay_close(case: NetworkCase) -> None:
    network = case.make().eval()
    exact = network(random_photos()).detach()
    network = network.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(random_photos().to(memory_format=torch.channels_last))
    assert rounded.dtype == torch.bfloat16
    assert float((rounded.detach().float() - exact).norm() / exact.norm()) < case.bf16_error
    if isinstance(network, BringsLoss):
        with torch.autocast("cpu", torch.bfloat16):
            loss = training_loss(network.train(), random_photos(), two_vehicles())
        assert loss.dtype == torch.float32
        loss.backward()  # type: ignore[no-untyped-call]
    else:
        rounded.float().square().mean().backward()
    assert all(torch.isfinite(value.grad).all() for value in network.parameters() if value.grad is not None)


@every_network
def test_copies_and_state_dicts_carry_over(case: NetworkCase) -> None:
    network = case.make(seed=0).eval()
    loaded = case.make(seed=1).eval()
    loaded.load_state_dict(network.state_dict())
    logits = network(random_photos())
    assert torch.equal(logits, loaded(random_photos()))
    assert torch.equal(logits, copy.deepcopy(network)(random_photos()))


@every_network
def test_sizes_that_it_takes(case: NetworkCase) -> None:
    height = 64 + case.multiple
    width = 64 + 3 * case.multiple
    validate(case.spec, 25, None, "models.x", (height, width), crop=height)
    logits = case.make().eval()(random_photos(1, height, width))
    assert logits.shape == (1, 25, height // case.stride, width // case.stride)


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items() if case.multiple > 1])
def test_sizes_that_it_does_not_take(case: NetworkCase) -> None:
    for height, width in ((64 + case.multiple // 2, 64), (64, 63)):
        with pytest.raises(HarveysegError) as raised:
            validate(case.spec, 25, None, "models.x", (height, width))
        message = str(raised.value)
        assert message.startswith(f"models.x: cannot take photos of {height}x{width} pixels (resize-cache.size): ")
        assert case.size_error in message
    with pytest.raises(
        HarveysegError, match=r"^models\.x: cannot take photos of 63x63 pixels \(train\.augmentation\.cr"
    ):
        validate(case.spec, 25, None, "models.x", (64, 64), crop=63)


@every_network
def test_weights_are_refused_where_there_is_no_encoder(case: NetworkCase) -> None:
    takes_weights = takes_encoder_weights(case.spec, "models.x")
    assert takes_weights == (case.spec["network"] in ("smp", "fcn", "mask_rcnn"))
    message = "no such file" if takes_weights else "this network is trained from scratch"
    with pytest.raises(HarveysegError, match=rf"^models\.x: encoder_weights = 'nowhere\.pt': {message}"):
        validate(case.spec, 25, "nowhere.pt", "models.x")
