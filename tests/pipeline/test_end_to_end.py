"""From each source to a submission, with a real DVC; Kaggle and figshare are local servers.

The source ``demo`` is in test_pipeline.py.
"""

import json
import sqlite3
from pathlib import Path

import pandas as pd
import pytest

from harveyseg.classes import HARVEY25
from harveyseg.data.demo import DemoParams, write_demo
from harveyseg.data.manifest import read_manifest
from harveyseg.data.sources.figshare import FIGSHARE_API_VARIABLE
from harveyseg.evaluation.submission import score_submission
from helpers.figshare import IMAGES_ARTICLE, MASKS_ARTICLE, Figshare, zipped
from helpers.file_server import FileServer
from helpers.kaggle_server import COMPETITION, Kaggle
from helpers.project import TINY, Project, start_project

SIZE = (1024, 1024)

STAGES = {
    "code", "download", "resize-cache", "split", "train@unet-0", "evaluate@unet-0", "ensemble", "postprocess",
    "metrics", "compare", "submit",
}  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Eight training photos and two test photos with their masks, by their paths."""
    folder = tmp_path_factory.mktemp("drawn")
    write_demo(folder, DemoParams(train=8, test=2, seed=0, width=96))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


@pytest.fixture
def service(local_service: FileServer, monkeypatch: pytest.MonkeyPatch) -> Figshare:
    figshare = Figshare(local_service)
    monkeypatch.setenv(FIGSHARE_API_VARIABLE, figshare.api)
    return figshare


def reproduce(folder: Path, source: str, **data: object) -> tuple[Project, set[str]]:
    """Run everything on this data, in the environment of now; the project and the ids of the submission's photos."""
    project = start_project(folder, {**TINY, "data": {"source": source, **data}})
    assert project.stages("dvc", "repro") == STAGES
    rows = pd.read_csv(folder / "data/submission/submission.csv")["ImageClassId"].str.rsplit("_", n=1, expand=True)
    photos = set(rows[0].str.removesuffix(".png"))
    assert len(rows) == 24 * len(photos)
    assert json.loads((folder / "data/submission/submission.json").read_text())["data_source"] == source
    assert set(project.table()["data_source"].dropna()) == {source}
    return project, photos


def check_score(project: Project) -> None:
    """Where masks are known there is another way to the score that the table tells: the submission itself."""
    data = project.folder / "data"
    scores = score_submission(data / "submission/submission.csv", data / "raw/test_masks", HARVEY25, SIZE)
    table = project.table()
    told = table.loc[table["model"] == "ensemble", "test_score"].iloc[0]
    assert scores["score"] == pytest.approx(told, abs=2e-5)


def ids(drawn: dict[str, bytes], folder: str) -> set[str]:
    return {Path(name).stem for name in drawn if name.startswith(f"{folder}/")}


def test_kaggle(kaggle: Kaggle, tmp_path: Path, drawn: dict[str, bytes]) -> None:
    # As the competition's archive is laid out; it holds no masks of the test photos.
    kaggle.archive = zipped(
        {f"{name.partition('/')[0]}/{name}": data for name, data in drawn.items() if not name.startswith("test_masks")}
    )
    kaggle.broken_after = [10**9, 5000]
    folder = tmp_path / "harveyseg"
    project, photos = reproduce(folder, "kaggle", kaggle={"competition": COMPETITION})
    assert photos == ids(drawn, "test_images")
    assert ("GET", "bytes=5000-") in kaggle.requests
    assert "public score 0.76640, private score 0.77510" in project.run("harveyseg", "upload")
    assert list(kaggle.uploaded.values()) == [(folder / "data/submission/submission.csv").read_bytes()]
    with sqlite3.connect(folder / "mlflow.db") as database:
        logged = database.execute("select key, value from latest_metrics where key like 'kaggle/%'").fetchall()
    assert dict(logged) == {"kaggle/public_score": 0.7664, "kaggle/private_score": 0.7751}


def test_figshare(service: Figshare, tmp_path: Path, drawn: dict[str, bytes]) -> None:
    for article, kind in ((IMAGES_ARTICLE, "images"), (MASKS_ARTICLE, "masks")):
        members = {name.partition("_")[2]: data for name, data in drawn.items() if f"_{kind}/" in name}
        service.publish(article, {f"{kind}.zip": zipped(members)})
    project, photos = reproduce(tmp_path / "harveyseg", "figshare")
    manifest = read_manifest(project.folder / "data/raw/manifest.csv")
    assert set(manifest["id"]) == ids(drawn, "train_images") | ids(drawn, "test_images")
    assert photos == set(manifest.loc[manifest["part"] == "test", "id"])
    assert len(photos) < len(manifest) / 2
    check_score(project)


def test_directory(tmp_path: Path, drawn: dict[str, bytes]) -> None:
    """As people keep them: by flights, elsewhere on the disk, with a camera's endings."""
    for index, (name, data) in enumerate(drawn.items()):
        folder, _, file = name.partition("/")
        path = tmp_path / "photos" / folder / f"flight {index % 2}" / file.replace(".jpg", ".JPG")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    project, photos = reproduce(tmp_path / "harveyseg", "directory", path="../photos")
    assert photos == ids(drawn, "test_images")
    check_score(project)
