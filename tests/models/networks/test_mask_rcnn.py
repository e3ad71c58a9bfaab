"""Mask R-CNN: objects of hand-made masks, torchvision's own loss of the same objects, and known objects painted."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from harveyseg.classes import HARVEY25, IGNORED, ClassList, SegmentationClass
from harveyseg.errors import HarveysegError
from harveyseg.inference.tta import mean_probabilities
from harveyseg.models.network import build
from harveyseg.models.networks.mask_rcnn import MaskRcnn, instances, paint
from helpers.networks import random_photos, two_vehicles

ROOF, POOL, VEHICLE = 1, 3, 4


def make(objects: tuple[str, ...] = ("Vehicle",)) -> MaskRcnn:
    torch.manual_seed(0)
    spec = {"network": "mask_rcnn", "objects": list(objects), "encoder": "resnet18", "channels": 16}
    network = build(spec, 25, None)
    assert isinstance(network, MaskRcnn)
    return network


def test_objects_of_a_mask_drawn_by_hand() -> None:
    letters = """
        R R . . . . P P
        R R . . . . P P
        . . R R . . . .
        . . R R . . V V
        5 5 5 5 . . . V
        5 5 5 5 . . . .
        u u . . V V V V
        u u . . V V V V
    """
    values = {"R": ROOF, "P": POOL, "V": VEHICLE, "5": 5, "u": IGNORED, ".": 0}
    mask = np.array([[values[letter] for letter in line.split()] for line in letters.strip().splitlines()], np.uint8)
    found = instances(mask, [VEHICLE, ROOF, POOL])
    # The roofs touch at a corner and are one. Three pixels are no vehicle. Grass and what has no label are no objects.
    assert found["labels"].tolist() == [VEHICLE, ROOF, POOL]
    assert found["boxes"].tolist() == [[4, 6, 8, 8], [0, 0, 4, 4], [6, 0, 8, 2]]
    assert found["boxes"].dtype == torch.float32
    drawn = found["masks"].numpy()
    assert np.array_equal(drawn[1], mask == ROOF)
    assert np.array_equal(drawn[2], mask == POOL)
    assert np.flatnonzero(drawn[0]).tolist() == [52, 53, 54, 55, 60, 61, 62, 63]


def test_a_mask_without_objects() -> None:
    found = instances(np.full((4, 6), 5, np.uint8), [ROOF])
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "masks": (0, 4, 6),
    }


def by_torchvision(network: MaskRcnn, photos: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
    """The same layers in torchvision's own model, with its own way from photos to batches."""
    model = network.model
    theirs = MaskRCNN(model.backbone, rpn_anchor_generator=model.rpn.anchor_generator, num_classes=25)
    theirs.rpn, theirs.roi_heads = model.rpn, model.roi_heads
    theirs.transform = GeneralizedRCNNTransform(64, 64, [0.0] * 3, [1.0] * 3)
    terms = theirs.train()(list(photos), targets)
    assert set(terms) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    return torch.stack(list(terms.values())).sum()


def test_the_loss_is_torchvisions_of_the_same_objects() -> None:
    network = make().train()
    masks = two_vehicles().to(torch.uint8)
    targets = [
        {"boxes": torch.tensor([[20.0, 10, 50, 30]]), "labels": torch.tensor([4]), "masks": (masks[:1] == 4).byte()},
        {"boxes": torch.tensor([[5.0, 40, 30, 52]]), "labels": torch.tensor([4]), "masks": (masks[1:] == 4).byte()},
    ]
    for sampler in (network.model.rpn.fg_bg_sampler, network.model.roi_heads.fg_bg_sampler):
        sampler.batch_size_per_image = 1_000_000  # all boxes, so that nothing is drawn
    expected = by_torchvision(network, random_photos(), targets).detach()
    loss = network.make_loss(HARVEY25)(random_photos(), masks).detach()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_photos_without_objects_have_a_loss() -> None:
    network = make().train()
    loss = network.make_loss(HARVEY25)(random_photos(), torch.zeros(2, 64, 64, dtype=torch.uint8))
    loss.backward()  # type: ignore[no-untyped-call]
    assert 0 < float(loss.detach()) < float("inf")


def test_two_known_objects_are_painted() -> None:
    masks = torch.zeros(3, 4, 4)
    masks[0, :2] = 1.0  # a roof over the upper half
    masks[1, 1:3, :2] = 0.5  # a vehicle that overlaps it
    masks[2, 1:3, :2] = 0.2  # the same vehicle, found twice
    maps = paint(masks, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([ROOF, VEHICLE, VEHICLE]), 25)
    assert maps.sum(0) == pytest.approx(1)
    expected = {(0, 0): {0: 0.1, ROOF: 0.9}, (1, 0): {ROOF: 0.9 / 1.3, VEHICLE: 0.4 / 1.3}}
    expected |= {(2, 0): {0: 0.6, VEHICLE: 0.4}, (3, 3): {0: 1.0}}
    for (row, column), probabilities in expected.items():
        assert maps[:, row, column].tolist() == pytest.approx([probabilities.get(index, 0.0) for index in range(25)])


def test_what_is_found_is_painted_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make().eval()
    full = torch.ones(1, 1, 28, 28)

    def find(features: Any, proposals: Any, sizes: Any, targets: Any) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
        found = {"boxes": torch.tensor([[8.0, 16, 24, 40]]), "labels": torch.tensor([VEHICLE])}
        found |= {"scores": torch.tensor([0.75]), "masks": full}
        nothing = {key: value[:0] for key, value in found.items()}
        return [found, nothing], {}

    monkeypatch.setattr(network.model.roi_heads, "forward", find)
    probabilities = network(random_photos()).softmax(1)
    vehicle = probabilities[0, VEHICLE]
    assert vehicle[18:38, 10:22] == pytest.approx(0.75, abs=1e-4)
    outside = torch.ones(64, 64, dtype=torch.bool)
    outside[15:41, 7:25] = False  # the mask's border is blurred by a pixel
    assert float(vehicle[outside].max()) < 1e-4
    assert probabilities[1, 0] == pytest.approx(1, abs=1e-4)
    assert (probabilities.argmax(1) == VEHICLE).sum() == pytest.approx(16 * 24, rel=0.15)


@pytest.mark.slow
def test_it_learns_to_find_objects_of_two_classes() -> None:
    network = make(("Vehicle", "swimming pool"))  # names of classes in any case
    masks = two_vehicles().to(torch.uint8)
    masks[0, 40:60, 40:60] = POOL
    colours = torch.randn(25, 3, generator=torch.Generator().manual_seed(1))
    photos = colours[masks.long()].permute(0, 3, 1, 2) + 0.1 * random_photos()
    loss = network.make_loss(HARVEY25)
    optimiser = torch.optim.AdamW(network.train().parameters(), lr=1e-3)
    for _ in range(60):
        optimiser.zero_grad()
        loss(photos, masks).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.inference_mode():
        found = network.eval()(photos).argmax(1)
        maps = mean_probabilities(network, photos, "d4", [1.0])
    assert maps.sum(1) == pytest.approx(1, abs=1e-4)
    assert float(maps[:, VEHICLE][masks == VEHICLE].mean()) > 5 * float(maps[:, VEHICLE][masks == 0].mean())
    for index in (VEHICLE, POOL):
        overlap = ((found == index) & (masks == index)).sum()
        assert 2 * overlap / ((found == index).sum() + (masks == index).sum()) > 0.7


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (("Vehicle", "Car"), r"objects: 'Car' is no class whose objects can be found; allowed: Property Roof, Second"),
        (("Background",), "objects: 'Background' is no class whose objects can be found"),
    ],
)
def test_objects_that_cannot_be_found(objects: tuple[str, ...], message: str) -> None:
    with pytest.raises(HarveysegError, match=f"^{message}"):
        make(objects).make_loss(HARVEY25)


def test_a_list_of_classes_without_a_background_is_refused() -> None:
    entries = tuple(SegmentationClass(id=i, name=f"Class {i}", color=f"#00000{i}") for i in (1, 2))
    with pytest.raises(HarveysegError, match="all classes of the list two are scored"):
        make(("Class 1",)).make_loss(ClassList(name="two", classes=entries))
