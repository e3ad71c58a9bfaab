"""Noisy predictions, which several test modules need: their statistics take a second."""

import pytest

from harveyseg.classes import HARVEY25
from harveyseg.postprocess.statistics import collect_statistics
from helpers.postprocessing import PHOTOS, NoisyPhotos, noisy_photos


@pytest.fixture(scope="session")
def noisy() -> NoisyPhotos:
    truth, maps = noisy_photos(noise=2.5)
    return NoisyPhotos(truth, maps, collect_statistics(maps, truth, range(PHOTOS), HARVEY25, threads=2))
