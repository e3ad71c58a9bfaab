"""Which samples an epoch is made of: augmented photos, batches in a seeded order, crops of rare classes."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from harveyseg.arrays import ClassMaps, Photos
from harveyseg.classes import IGNORED, RARE, ClassList
from harveyseg.data.augmentation import Augmentation, sample_seed

SampleKey = tuple[int, int, int]
"""Epoch, row of the photo in the cache, and which of the photo's samples in this epoch, from 0."""

Batch = tuple[torch.Tensor, torch.Tensor]
"""Photos (B, H, W, 3) with their class maps (B, H, W), or two views of the same photos; uint8."""


def epoch_batches(
    rows: Sequence[int], batch_size: int, seed: int, epoch: int, crops_per_photo: int = 1
) -> list[list[SampleKey]]:
    """Batches of one epoch, in an order that depends on seed and epoch alone.

    Every photo comes ``crops_per_photo`` times, all of them mixed. A last batch of one sample joins the batch before:
    batch norm over one sample fails where a network pools to 1 x 1, and is noise elsewhere.

    >>> [sorted(batch) for batch in epoch_batches([7, 8, 9], batch_size=2, seed=0, epoch=5)]
    [[(5, 7, 0), (5, 8, 0), (5, 9, 0)]]
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(rows) * crops_per_photo, generator=generator).tolist()
    keys = [(epoch, int(rows[position % len(rows)]), position // len(rows)) for position in order]
    batches = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
    if batch_size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2].extend(batches.pop())
    return batches


def unlabelled_batches(photos: int, sizes: Sequence[int], seed: int, epoch: int) -> list[list[SampleKey]]:
    """Batches of unlabelled photos to go with an epoch's labelled ones.

    Args:
        photos: how many unlabelled photos there are; each comes about equally often.
        sizes: of the labelled batches.
        seed: the training's seed.
        epoch: number of the pass, from 0.

    >>> [len(batch) for batch in unlabelled_batches(2, sizes=[2, 1], seed=0, epoch=0)]
    [2, 1]
    """
    samples = sum(sizes)
    (order,) = epoch_batches(range(photos), photos * samples, seed, epoch, crops_per_photo=-(-samples // photos))
    keys = iter(order)
    return [list(islice(keys, size)) for size in sizes]


class EpochLoader:
    """Loads the batches of one epoch after the other in the same worker processes.

    Workers that start with every epoch import the package and get a copy of the photos each time, unless they are
    forked.

    Args:
        samples: the dataset; a worker copies it when it starts.
        workers: processes; 0 loads in this one.
        seed: the training's seed.
        pin_memory: whether batches go to page-locked memory, for copies to CUDA.
    """

    def __init__(self, samples: Dataset[Batch], workers: int, seed: int, pin_memory: bool) -> None:
        self._batches: list[list[SampleKey]] = []
        self._loader = DataLoader(
            samples,
            batch_sampler=self._batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            # A generator of its own: the loader draws a seed from it, which must not depend on the rest.
            generator=torch.Generator().manual_seed(seed),
            pin_memory=pin_memory,
        )

    def epoch(self, batches: Sequence[list[SampleKey]]) -> Iterator[Batch]:
        """The samples of these batches; the epoch before must have been read to its end."""
        self._batches[:] = batches
        return iter(self._loader)


class RareClassSampler:
    """Class-balanced crops: which photo a sample is cut from, and which class it must show.

    With the given probability a class is drawn evenly from those that cover less than 1% of the training pixels (those
    that are not scored left out), and then one of the photos that hold it, in place of the sample's own.

    Args:
        probability: share of the samples that must show a rare class.
        masks: class maps of all photos of the cached part.
        classes: what they hold.
        rows: the photos to train on.
        seed: the training's seed.

    Attributes:
        photos: for each rare class, the rows of the photos that hold it.
    """

    def __init__(
        self, probability: float, masks: ClassMaps, classes: ClassList, rows: Sequence[int], seed: int
    ) -> None:
        counts = {row: np.bincount(masks[row].ravel(), minlength=IGNORED + 1)[: len(classes)] for row in rows}
        total = np.sum(list(counts.values()), axis=0)
        scored = range(classes.unscored, len(classes))
        rare = [index for index in scored if 0 < total[index] < RARE * total.sum()]
        self.photos = {index: [row for row in rows if counts[row][index]] for index in rare}
        self._probability = probability
        self._seed = seed

    def __call__(self, epoch: int, row: int, repetition: int) -> tuple[int, int | None]:
        """The photo's row and the class to show; the sample's own row and None where no class is drawn."""
        # "focus" is a part of the seed: another word would draw other samples.
        generator = np.random.default_rng(sample_seed("focus", self._seed, epoch, row, repetition))
        if not self.photos or generator.random() >= self._probability:
            return row, None
        class_id = int(generator.choice(list(self.photos)))
        return int(generator.choice(self.photos[class_id])), class_id


class Samples(Dataset[Batch]):
    """Augmented photos with their masks.

    The epoch is part of the key, because workers copy the dataset once and see no later change.
    """

    def __init__(
        self, images: Photos, masks: ClassMaps, augmentation: Augmentation, rare_classes: RareClassSampler | None
    ) -> None:
        self._images = images
        self._masks = masks
        self._augmentation = augmentation
        self._rare_classes = rare_classes

    def __getitem__(self, key: SampleKey) -> Batch:
        """Photo (H, W, 3) and class map (H, W) of a sample, uint8."""
        epoch, row, repetition = key
        photo, target_class = (row, None) if self._rare_classes is None else self._rare_classes(epoch, row, repetition)
        image, mask = self._augmentation(
            np.array(self._images[photo]), np.array(self._masks[photo]), epoch, row, repetition, target_class
        )
        return torch.from_numpy(np.ascontiguousarray(image)), torch.from_numpy(np.ascontiguousarray(mask))


class UnlabelledViews(Dataset[Batch]):
    """Two views of each sample of the photos without masks, see :meth:`Augmentation.views`."""

    def __init__(self, images: Photos, augmentation: Augmentation) -> None:
        self._images = images
        self._augmentation = augmentation

    def __getitem__(self, key: SampleKey) -> Batch:
        """The plain and the recoloured view of a sample, both (H, W, 3), uint8."""
        epoch, row, repetition = key
        plain, recoloured = self._augmentation.views(np.array(self._images[row]), epoch, row, repetition)
        return torch.from_numpy(np.ascontiguousarray(plain)), torch.from_numpy(np.ascontiguousarray(recoloured))
