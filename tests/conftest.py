"""Fixtures that several packages share: real photos, local services, an MLflow tracker and a tiny cached part."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harveyseg.classes import HARVEY25
from harveyseg.data.cache import CachedPart
from harveyseg.tracking.client import Tracker, TrackingParams, open_tracker
from helpers.environment import VARIABLES
from helpers.file_server import FileServer, serving
from helpers.http_server import PROXIES
from helpers.kaggle_server import Kaggle, running
from helpers.paths import REAL_PHOTOS

# Set before anything computes: tests run next to each other, and spinning threads would stall them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put modules with slow tests first, so that no core idles at the end while another one runs them."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The competition's photos, or a skip that says what is missing."""
    if not REAL_PHOTOS.is_dir():
        pytest.skip(f"no real photos in {REAL_PHOTOS}; set HARVEYSEG_DATA to a folder in the Kaggle layout")
    return REAL_PHOTOS


@pytest.fixture
def local_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A local server of files, which this process reaches without a proxy and asks again at once."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("harveyseg.data.download.BACKOFF", 0.001)
    with serving() as server:
        yield server


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kaggle]:
    """A local Kaggle, which this process's client speaks to, signed in as ana."""
    with running() as service:
        service.use(monkeypatch, tmp_path / "home")
        yield service


@pytest.fixture
def tiny_part() -> CachedPart:
    """Twelve 32 x 32 photos of two classes that colour tells apart: 5 is green, 23 is brown; no other occurs."""
    rng = np.random.default_rng(0)
    masks = np.where(rng.random((12, 4, 4)) < 0.5, 5, 23).astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    colours = np.zeros((25, 3))
    colours[5], colours[23] = (60, 160, 60), (150, 110, 80)
    images = np.clip(colours[masks] + rng.normal(0, 25, (12, 32, 32, 3)), 0, 255).astype(np.uint8)
    flat = images.reshape(12, -1, 3).astype(np.float64)
    photos = pd.DataFrame({"id": [str(index) for index in range(12)], "width": 32, "height": 32, "pixels": 32 * 32})
    for channel, name in enumerate("rgb"):
        photos[f"sum_{name}"] = flat[..., channel].sum(axis=1)
        photos[f"sumsq_{name}"] = (flat[..., channel] ** 2).sum(axis=1)
    for class_id in range(25):
        photos[f"count_{class_id}"] = (masks == class_id).sum(axis=(1, 2))
    return CachedPart(
        ids=tuple(photos["id"]),
        images=images,
        masks=masks,
        photos=photos,
        size=(32, 32),
        source="demo",
        data_hash="0",
        classes=HARVEY25,
        score_size=(1024, 1024),
    )


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is taken back if the test sets it, as MLflow's set_tracking_uri does
        monkeypatch.delenv(name)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "a project"  # with a space, as real ones have
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database whose tables are made (1 to 3 s), without the experiment ``harveyseg``."""
    folder = tmp_path_factory.mktemp("migrated")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_tracker(TrackingParams(experiment="another"), folder)
    return folder / "mlflow.db"


@pytest.fixture(scope="session", autouse=True)
def patient() -> Iterator[None]:
    """No tracker is given up since the machine is busy, but in the tests of that."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("harveyseg.tracking.client._PATIENCE_SECONDS", 600.0)
        yield


@pytest.fixture
def tracker(project: Path, migrated: Path) -> Tracker:
    shutil.copy(migrated, project)
    return open_tracker(TrackingParams(), project)
