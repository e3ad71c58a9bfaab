"""Two ways to train the same network on the same pixels: as the pipeline does, and the usual loop of a notebook.

The usual loop: JPEG and PNG files decoded in every step, Albumentations and its own normalisation in two worker
processes, contiguous memory, the default optimiser, ``.item()`` after every step; in float32 or with autocast to
bfloat16. Its loss is cross-entropy alone and it keeps no moving average, also where the pipeline's recipe has more
terms and an average, so the comparison errs to its favour. It has its photos at the size of the pipeline's cache, and
the time until its first batch is loaded does not count.
"""

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from harveyseg.classes import HARVEY25
from harveyseg.config import preset
from harveyseg.config.settings import load, merge, parse
from harveyseg.data.augmentation import Augmentation
from harveyseg.data.cache import CachedPart, ResizeParams, build_cache, load_part
from harveyseg.data.sources import DataParams, download_source
from harveyseg.device import resolve_device, seed_everything, use_precision, use_threads
from harveyseg.models.network import build
from harveyseg.training.dataset import EpochLoader, RareClassSampler, Samples, epoch_batches
from harveyseg.training.learner import Learner
from harveyseg.training.params import TrainParams

PRESETS = Path(preset.__file__).with_name("presets")
NETWORKS = {
    "U-Net 16": ("report", "unet"),
    "MobileNetV2": ("report", "mobilenet_v2"),
    "EfficientNet-B1": ("report", "efficientnet_b1"),
    "best": ("best", "unet_efficientnet_lite0"),
}
"""Preset and model. Weights are random, which does not change the time."""


@dataclass(frozen=True)
class Recipe:
    """What both loops share."""

    spec: Mapping[str, Any]
    params: TrainParams
    size: int
    """Side of the cached photos in pixels."""

    @classmethod
    def of(cls, network: str, **changes: Any) -> "Recipe":
        """The recipe of one of ``NETWORKS``, with changes of ``train``."""
        name, model = NETWORKS[network]
        settings = load(PRESETS / f"{name}.yaml")
        spec = {key: value for key, value in settings["models"][model].items() if key != "train"}
        train = merge(settings["train"], {"encoder_weights": None, **changes})
        return cls(spec, parse(TrainParams, train, "train"), settings["resize-cache"]["size"])


def make_cache(photos: Path, size: int, folder: Path) -> CachedPart:
    """The packed training photos at a size, from a folder in the Kaggle layout, or from the demo's drawn ones."""
    if not (folder / "cache" / "train" / "info.json").exists():
        source: dict[str, Any] = {"source": "demo" if photos == Path("demo") else "directory", "path": str(photos)}
        download_source(DataParams(**source), folder, folder / "raw")
        build_cache(folder / "raw", folder / "cache", ResizeParams(size=size))
    return load_part(folder / "cache" / "train")


def write_files(part: CachedPart, folder: Path) -> None:
    """The cached photos as JPEG and their masks as PNG, for the usual loop."""
    assert part.masks is not None
    folder.mkdir(exist_ok=True)
    for index, (photo, mask) in enumerate(zip(part.images, part.masks, strict=True)):
        cv2.imwrite(str(folder / f"{index}.jpg"), cv2.cvtColor(np.array(photo), cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(folder / f"{index}.png"), np.array(mask))


class OurLoop:
    """The pipeline's own loader and learner."""

    def __init__(self, recipe: Recipe, part: CachedPart) -> None:
        assert part.masks is not None
        params = recipe.params
        use_threads(params.threads)
        seed_everything(params.seed)
        self.params = params
        self.learner = Learner(recipe.spec, params, part.classes, part.photos, steps=1000)
        use_precision(self.learner.precision)
        rows = list(range(len(part.ids)))
        probability = params.sampling.rare_class_probability
        rare = RareClassSampler(probability, part.masks, part.classes, rows, params.seed) if probability else None
        self.samples = Samples(part.images, part.masks, Augmentation(params.augmentation, params.seed), rare)
        on_cuda = self.learner.device.type == "cuda"
        self._loader = EpochLoader(self.samples, params.workers, params.seed, on_cuda)
        self.batches = itertools.chain.from_iterable(
            # A batch that is not full would be counted as one.
            [batch for batch in self._epoch(rows, epoch) if len(batch) == params.batch_size]
            for epoch in itertools.count()
        )

    def _epoch(self, rows: list[int], epoch: int) -> list[list[tuple[int, int, int]]]:
        crops = max(self.params.sampling.crops_per_photo, -(-self.params.batch_size // len(rows)))
        return epoch_batches(rows, self.params.batch_size, self.params.seed, epoch, crops)

    def run(self, steps: int) -> float:
        """Seconds of so many steps."""
        batches = list(itertools.islice(self.batches, steps))
        started = time.perf_counter()
        self.learner.train_epoch(zip(self._loader.epoch(batches), itertools.repeat(None), strict=False))
        return time.perf_counter() - started


class UsualLoop:
    """See the module's text."""

    def __init__(self, recipe: Recipe, folder: Path, autocast: bool) -> None:
        params = recipe.params
        torch.set_num_threads(params.threads)
        torch.manual_seed(0)
        self._device = resolve_device(params.device)
        self._softmax = params.loss.softmax_before_loss
        self._batch_size = params.batch_size
        self._autocast = autocast
        self._network = build(recipe.spec, len(HARVEY25), None).to(self._device).train()
        adam = torch.optim.Adam if params.optimiser.name == "adam" else torch.optim.AdamW
        self._optimiser = adam(self._network.parameters(), lr=params.lr, weight_decay=params.optimiser.weight_decay)
        self._loss = nn.CrossEntropyLoss(ignore_index=255)
        self._files = _Files(folder, params)

    def run(self, steps: int) -> float:
        """Seconds of so many steps, from the first loaded batch on."""
        batches = iter(self._loader(steps))
        batch = next(batches)
        started = time.perf_counter()
        for _ in range(steps):
            self._step(*batch)
            batch = next(batches, batch)
        return time.perf_counter() - started

    def _loader(self, steps: int) -> DataLoader[tuple[Tensor, Tensor]]:
        self._files.samples = steps * self._batch_size
        on_cuda = self._device.type == "cuda"
        return DataLoader(self._files, self._batch_size, shuffle=True, num_workers=2, pin_memory=on_cuda)

    def _step(self, images: Tensor, masks: Tensor) -> float:
        images = images.to(self._device)
        masks = masks.to(self._device)
        self._optimiser.zero_grad()
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast):
            logits = self._network(images)
            stride = masks.shape[-1] // logits.shape[-1]
            target = masks[:, stride // 2 :: stride, stride // 2 :: stride].long()
            loss = self._loss(logits.softmax(1) if self._softmax else logits, target)
        loss.backward()
        self._optimiser.step()
        return float(loss.item())


class _Files(Dataset[tuple[Tensor, Tensor]]):
    """Photos and masks from files, with Albumentations' own transforms of the recipe."""

    def __init__(self, folder: Path, params: TrainParams) -> None:
        augmentation = params.augmentation
        self.samples = 0
        self._paths = sorted(folder.glob("*.jpg"))
        transforms: list[Any] = []
        if augmentation.crop is not None:
            # The zoom of the recipe, as the share of the area.
            scale = [np.exp(2 * sign * augmentation.zoom) * augmentation.crop**2 / 512**2 for sign in (-1, 1)]
            sides = (augmentation.crop, augmentation.crop)
            transforms = [A.RandomResizedCrop(sides, scale=(scale[0], min(1.0, scale[1])), ratio=(1.0, 1.0))]
        if augmentation.flip:
            transforms += [A.HorizontalFlip(p=augmentation.flip), A.VerticalFlip(p=augmentation.flip)]
        if augmentation.rotate:
            transforms.append(A.Rotate(limit=augmentation.rotate_limit, p=augmentation.rotate))
        if augmentation.d4:
            transforms.append(A.D4(p=augmentation.d4))
        if augmentation.sharpen:
            transforms.append(A.Sharpen(p=augmentation.sharpen))
        brightness, contrast = augmentation.brightness_limit, augmentation.contrast
        transforms.append(A.RandomBrightnessContrast(brightness, contrast, p=augmentation.brightness))
        self._transform = A.Compose([*transforms, A.Normalize(), ToTensorV2()])

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path = self._paths[index % len(self._paths)]
        photo = cv2.cvtColor(np.asarray(cv2.imread(str(path))), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(str(path.with_suffix(".png")), cv2.IMREAD_GRAYSCALE)
        sample = self._transform(image=photo, mask=mask)
        return sample["image"], sample["mask"]


LOOPS = ("ours", "fp32", "autocast")
"""The pipeline's loop, and the usual one without and with autocast."""


def make_loop(kind: str, recipe: Recipe, part: CachedPart, files: Path) -> OurLoop | UsualLoop:
    """One of ``LOOPS``."""
    return OurLoop(recipe, part) if kind == "ours" else UsualLoop(recipe, files, autocast=kind == "autocast")
