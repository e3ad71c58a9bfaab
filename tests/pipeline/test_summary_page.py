"""`harveyseg summary` on finished pipelines: every number is that of the stages' files, and a real browser shows it."""

import base64
import json
import re
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Page as BrowserPage
from ruamel.yaml import YAML

from harveyseg.classes import HARVEY25
from harveyseg.data.resize import nearest_classes
from harveyseg.inference.probabilities import upsample
from helpers.browser import find_chromium, open_page
from helpers.page import Page
from helpers.project import Project

pytestmark = pytest.mark.slow

SIZE = (1024, 1024)
_PATIENCE_MS = 120_000


def set_params(project: Project, **changes: object) -> None:
    yaml = YAML()
    path = project.folder / "params.yaml"
    params = yaml.load(path)
    params.update(changes)
    yaml.dump(params, path)


@pytest.fixture(scope="module")
def both_folds(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished checkout, in which both folds are held out in turn, and an experiment that submits argmax maps."""
    project = finished.copy(tmp_path_factory.mktemp("folds") / "harveyseg")
    set_params(project, folds=[0, 1])
    project.run("dvc", "repro")
    project.commit("both folds")
    project.run("dvc", "exp", "run", "--name", "plain", "-S", "postprocess.method=argmax")
    project.run("git", "checkout", "-q", "--", ".")
    project.run("dvc", "checkout", "--force")
    project.run("harveyseg", "summary", "--compare", "plain")
    return project


@pytest.fixture(scope="module")
def page(both_folds: Project) -> Page:
    return Page(both_folds.folder / "summary.html")


def table_of(project: Project) -> pd.DataFrame:
    return pd.read_csv(project.folder / "data/reports/comparison.csv", dtype=str, keep_default_na=False)


def winner_of(table: pd.DataFrame) -> tuple[str, float]:
    whole = table[(table["fold"] == "all") | (table["model"] == "ensemble")].astype({"val_score": float})
    best = whole.iloc[int(whole["val_score"].to_numpy().argmax())]  # the first of equal ones
    return str(best["model"]), float(best["val_score"])


def test_every_cell_of_the_table_is_there(both_folds: Project, page: Page) -> None:
    table = table_of(both_folds)
    header, *rows = page.tables["score-table"]
    shared = {given["data-name"]: given["data-value"] for given in page.attributes["code"] if given.get("data-name")}
    assert len(rows) == len(table)
    shown = {(row[0], row[1]): dict(zip(header, row, strict=True)) for row in rows}
    for expected in table.to_dict("records"):
        row = shown[expected["model"], expected["fold"]]
        for name, cell in expected.items():
            if name == "note":
                assert str(cell) in page.text
            elif str(name) in row:
                assert row[str(name)] == cell
            else:  # no row has the setting, or all that have it share it
                assert cell in ("", shared.get(str(name))), name


def test_status_says_when_the_page_shows_other_results(both_folds: Project, tmp_path: Path) -> None:
    project = both_folds.copy(tmp_path / "harveyseg")
    assert "summary:" not in project.run("harveyseg", "status")
    project.run("dvc", "exp", "apply", "plain")
    assert "summary.html shows other results than these" in project.run("harveyseg", "status")
    project.run("harveyseg", "summary")
    assert "summary:" not in project.run("harveyseg", "status")


def test_the_best_model_is_the_first_row_and_the_baseline_in_its_place(page: Page) -> None:
    header, *rows = page.tables["score-table"]
    scores = [float(row[header.index("val_score")]) for row in rows if row[1] in ("all", "")]
    assert len(scores) == len({row[0] for row in rows})
    assert scores == sorted(scores, reverse=True)


def test_the_best_model_is_named_first(both_folds: Project, page: Page) -> None:
    winner, score = winner_of(table_of(both_folds))
    first = page.text[page.text.index("Best model") :].split()
    assert first[2] == winner
    assert first[3] == f"{score:.5f}"


def test_curves_are_the_histories(both_folds: Project, page: Page) -> None:
    for measure in ("train_loss", "val_loss", "val_argmax_score"):
        shown = pd.DataFrame(page.values(f"curve-{measure}"))
        assert len(shown) == 2 * 2 * 2  # models, folds, epochs
        for (model, fold), rows in shown.groupby(["model", "fold"]):
            history = pd.read_csv(both_folds.folder / f"data/models/{model}-{fold}/history.csv")
            assert rows[measure].tolist() == pytest.approx(history[measure].tolist(), abs=0)
            assert rows["epoch"].tolist() == history["epoch"].tolist()


def test_dice_of_classes_is_that_of_all_folds(both_folds: Project, page: Page) -> None:
    data = both_folds.folder / "data"
    truth = np.load(data / "cache/score/train_masks.npy")
    photos = pd.read_csv(data / "cache/train/photos.csv", dtype={"id": str})["id"].tolist()
    names = dict(zip(HARVEY25.slugs, HARVEY25.names, strict=True))
    shown = {(row["model"], row["name"], row["maps"]): row["dice"] for row in page.values("dice")}
    for model in ("unet", "attention_unet", "ensemble"):
        metrics = json.loads((data / f"postprocess/metrics/{model}.json").read_text())
        expected = {names[key.removeprefix("val/dice/")]: metrics[key] for key in metrics if "val/dice/" in key}
        assert {
            name: dice for (own, name, maps), dice in shown.items() if (own, maps) == (model, "submitted")
        } == expected
    # Of the argmax maps: by their definition, for the class that covers the most pixels.
    counts = np.bincount(truth.ravel(), minlength=25)
    counts[0] = 0
    index = int(counts.argmax())
    values = []
    for fold in (0, 1):
        folder = data / f"predictions/unet-{fold}"
        ids = pd.read_csv(folder / "val_ids.csv", dtype=str)["id"]
        for probabilities, photo in zip(np.load(folder / "val.npy"), ids, strict=True):
            mask = truth[photos.index(photo)] == index
            predicted = upsample(probabilities, SIZE).argmax(0) == index
            if mask.any():
                values.append(2 * (mask & predicted).sum() / (mask.sum() + predicted.sum()))
    assert shown["unet", HARVEY25.names[index], "argmax"] == pytest.approx(np.mean(values), abs=2e-6)


def inflate(text: str, picture: dict[str, Any]) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    size = picture["height"], picture["width"]
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(size)


def test_pictures_show_the_masks_and_scores(both_folds: Project, page: Page) -> None:
    data = both_folds.folder / "data"
    pictures = page.scripts["gallery-data"]["pictures"]
    assert [picture["part"] for picture in pictures] == ["held out"] * 10 + ["test"] * 3
    table = table_of(both_folds)
    winner, score = winner_of(table)
    own = table[(table["model"] == winner) & table["fold"].isin(["all", ""])].iloc[0]
    scores = {
        part: [picture["score"] for picture in pictures if picture["part"] == part] for part in ("held out", "test")
    }
    assert np.mean(scores["held out"]) == pytest.approx(score, abs=6e-6)  # five decimals are in the table
    assert np.mean(scores["test"]) == pytest.approx(float(own["test_score"]), abs=6e-6)
    for part, folder in (("held out", "train"), ("test", "test")):
        ids = pd.read_csv(data / f"cache/{folder}/photos.csv", dtype={"id": str})["id"].tolist()
        masks = np.load(data / f"cache/score/{folder}_masks.npy")
        for picture in (picture for picture in pictures if picture["part"] == part):
            shown = inflate(picture["truth"], picture)
            assert np.array_equal(shown, nearest_classes(masks[ids.index(picture["name"])], shown.shape))
            predicted = inflate(picture["prediction"], picture)
            assert predicted.max() < 25
            assert picture["photo"].startswith("data:image/webp;base64,")


def test_the_worst_pairs_are_in_order_and_have_a_reason(page: Page) -> None:
    _, *rows = page.tables["worst-table"]
    assert len(rows) == 10
    dice = [float(row[3]) for row in rows]
    assert dice == sorted(dice)
    for _, _, name, value, reason, missing, extra in rows:
        pixels = int(missing.replace(",", "")), int(extra.replace(",", ""))
        assert name in HARVEY25.names
        assert max(pixels) > 0
        if reason == "missed":
            assert (float(value), pixels[1]) == (0, 0)
        elif reason == "false":
            assert (float(value), pixels[0]) == (0, 0)
        else:
            assert reason in ("border", "missed in part", "false in part")


def test_the_experiment_and_the_last_commit_are_compared(both_folds: Project, page: Page) -> None:
    plain = pd.read_csv(
        both_folds.folder / "data/reports/comparison.csv", dtype=str, keep_default_na=False
    )  # the workspace, in which the rule is chosen
    assert set(plain.loc[plain["model"] == "unet", "postprocess"]) <= {"auto", ""}
    tables = list(page.tables.values())
    changed = [table for table in tables if table[0] == ["setting", "workspace", "plain"]]
    assert changed == [[["setting", "workspace", "plain"], ["postprocess.method", "auto", "argmax"]]]
    scores = next(table for table in tables if table[0][:3] == ["model", "workspace", "plain"])
    for model, here, there, difference in scores[1:]:
        argmax = plain.loc[
            (plain["model"] == model) & plain["fold"].isin(["all", ""]), ["val_score", "val_argmax_score"]
        ].iloc[0]
        assert here == argmax["val_score"]
        if model != "ensemble":  # which weighs the models by the score that it aims at
            assert there == argmax["val_argmax_score"]  # submitting argmax maps scores just that
            assert float(difference) == pytest.approx(float(there) - float(here), abs=2e-5)
    since = next(table for table in tables if table[0] == ["setting", "then", "now"])
    assert since[1:] == [["folds", "[0]", "[0, 1]"]]


def test_runs_lead_into_mlflow(both_folds: Project, page: Page) -> None:
    _, *rows = page.tables["run-table"]
    record = both_folds.record("unet-0")
    row = next(row for row in rows if row[0] == "unet-f0")
    assert row[4] == record.uid
    addresses = [given["href"] for given in page.attributes["a"] if "/runs/" in str(given.get("href"))]
    assert len(addresses) == len(rows) == 5
    with sqlite3.connect(both_folds.folder / "mlflow.db") as database:
        query = "select run_uuid from tags where key = 'harveyseg.uid' and value = ?"
        known = {row[0] for row in database.execute(query, (record.uid,))}
    assert any(f"http://127.0.0.1:5000/#/experiments/1/runs/{run}" in addresses for run in known)


def test_the_page_is_one_ignored_file(both_folds: Project, page: Page) -> None:
    assert "summary.html" not in both_folds.run("git", "status", "--short")
    file = both_folds.folder / "summary.html"
    assert file.stat().st_size < 10_000_000
    assert both_folds.stages("dvc", "repro") == set()
    loaded = [given for tag in ("script", "link", "img", "iframe") for given in page.attributes.get(tag, [])]
    assert not [given for given in loaded if given.get("src") or given.get("href")]
    assert not re.search(r"@import|url\(", file.read_text().partition("</style>")[0])


def test_a_workspace_without_test_masks_and_with_other_settings(both_folds: Project, tmp_path: Path) -> None:
    project = both_folds.copy(tmp_path / "harveyseg")
    (project.folder / "data/cache/score/test_masks.npy").unlink()
    (project.folder / "mlflow.db").unlink()
    set_params(project, **{"train": YAML().load(project.folder / "params.yaml")["train"] | {"lr": 0.5}})
    project.run("harveyseg", "summary", "--out", "other.html")
    page = Page(project.folder / "other.html")
    assert "train.lr is 0.5 in params.yaml and 0.01 in this run" in page.text
    assert "without masks" in page.text
    assert "harveyseg sync" in page.text
    assert not (project.folder / "mlflow.db").exists()
    pictures = page.scripts["gallery-data"]["pictures"]
    assert [picture["truth"] is None for picture in pictures] == [False] * 10 + [True] * 3


def test_mistakes_are_named(both_folds: Project, tmp_path: Path) -> None:
    project = both_folds.copy(tmp_path / "harveyseg")
    assert "no such experiment" in project.run("harveyseg", "summary", "--compare", "nothing", ok=False)
    table = project.folder / "data/reports/comparison.csv"
    text = table.read_text()
    table.unlink()
    table.write_text(text.replace("0.", "0.9", 1))
    assert "is not what the pipeline wrote" in project.run("harveyseg", "summary", ok=False)
    shutil.rmtree(project.folder / "data/models")
    said = project.run("harveyseg", "summary", ok=False)
    assert "data/models/unet-0/run.json: no such file" in said
    assert "`dvc repro` makes what is missing" in said


@pytest.fixture(scope="module")
def browser_page(both_folds: Project) -> Iterator[BrowserPage]:
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine")
    with open_page(1280, 900) as opened:
        opened.set_default_timeout(_PATIENCE_MS)
        heard: list[str] = []
        opened.on("console", lambda message: heard.append(message.text))
        opened.on("pageerror", lambda error: heard.append(str(error)))
        opened.on("request", lambda request: heard.append(request.url))
        address = (both_folds.folder / "summary.html").as_uri()
        opened.goto(address)
        opened.wait_for_selector("body[data-ready=yes]")
        # Pictures that the page itself holds are all that may be loaded besides the page.
        assert [entry for entry in heard if not entry.startswith("data:image/webp")] == [address]
        yield opened
        assert [entry for entry in heard if not entry.startswith("data:image/webp")] == [address]


def test_all_charts_are_drawn(browser_page: BrowserPage) -> None:
    for name in (
        "scores", "scores-test", "curve-train_loss", "curve-val_loss", "curve-val_argmax_score", "dice", "confusion",
        "shares", "split", "weights", "diversity", "versions",
    ):  # fmt: skip
        marks = browser_page.locator(f"#chart-{name} svg .role-mark path")
        assert marks.count() > 0, name
        assert browser_page.locator(f"#chart-{name} svg").bounding_box()["width"] > 200, name  # type: ignore[index]


def test_a_click_sorts_the_table(both_folds: Project, browser_page: BrowserPage) -> None:
    browser_page.locator("#show-folds").check()
    header = browser_page.locator("#score-table th button", has_text=re.compile("^val_score$"))
    column = browser_page.locator("#score-table thead th").all_inner_texts().index("val_score")

    def scores() -> list[float]:
        return [
            float(text)
            for text in browser_page.locator(f"#score-table tbody tr > :nth-child({column + 1})").all_inner_texts()
            if text
        ]

    header.click()
    assert scores() == sorted(scores(), reverse=True)
    header.click()
    assert scores() == sorted(scores())
    assert len(scores()) == (table_of(both_folds)["val_score"] != "").sum()


def test_the_legend_hides_a_class(browser_page: BrowserPage, page: Page) -> None:
    browser_page.locator("#part").select_option("")
    browser_page.locator("#left").select_option("truth")
    browser_page.locator("#all-classes").click()
    figure = browser_page.locator(".picture").first
    figure.scroll_into_view_if_needed()
    picture = page.scripts["gallery-data"]["pictures"][int(str(figure.get_attribute("data-index")))]
    truth = inflate(picture["truth"], picture)

    def coloured() -> int:
        return int(
            figure.locator("canvas.left").evaluate(
                """canvas => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
                             .filter((value, index) => index % 4 === 3 && value > 0).length"""
            )
        )

    assert coloured() == truth.size
    index = int(np.bincount(truth.ravel()).argmax())
    browser_page.locator(f"#legend [data-class='{index}']").click()
    assert coloured() == (truth != index).sum()
    browser_page.locator(f"#legend [data-class='{index}']").dblclick()
    assert coloured() == (truth == index).sum()
    browser_page.locator("#no-classes").click()
    assert coloured() == 0
    browser_page.locator("#all-classes").click()
    assert coloured() == truth.size


def test_a_worst_pair_shows_its_errors_alone(browser_page: BrowserPage, page: Page) -> None:
    button = browser_page.locator("#worst-table button[data-picture]").first
    key, index = str(button.get_attribute("data-picture")), int(str(button.get_attribute("data-class")))
    button.click()
    figure = browser_page.locator(".picture.found")
    assert figure.count() == 1
    picture = next(picture for picture in page.scripts["gallery-data"]["pictures"] if picture["key"] == key)
    truth, predicted = (inflate(picture[layer], picture) == index for layer in ("truth", "prediction"))
    expected = int((truth | predicted).sum())
    canvas = figure.locator("canvas.right")
    drawn = canvas.evaluate(
        """canvas => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
                     .filter((value, index) => index % 4 === 3 && value > 0).length"""
    )
    assert drawn == expected


def test_controls_of_charts_and_pictures_work(browser_page: BrowserPage) -> None:
    before = browser_page.locator("#chart-dice svg").text_content()
    browser_page.locator("input[name=maps][value=argmax]").check()
    browser_page.wait_for_function(
        "before => document.querySelector('#chart-dice svg').textContent !== before", arg=before
    )
    lines = browser_page.locator("#chart-curve-val_loss svg .mark-line path")
    assert lines.count() == 4
    browser_page.locator("#curve-legend input[value=unet]").uncheck()
    browser_page.wait_for_function(
        "document.querySelectorAll('#chart-curve-val_loss svg .mark-line path').length === 2"
    )
    browser_page.locator("#part").select_option("test")
    assert browser_page.locator(".picture:visible").count() == 3
    browser_page.locator("#order").select_option("worst")
    scores = [
        float(str(figure.get_attribute("data-score"))) for figure in browser_page.locator(".picture:visible").all()
    ]
    assert scores == sorted(scores)
    browser_page.locator("#divide").fill("20")
    stage = browser_page.locator(".picture:visible .stage").first
    box, line = stage.bounding_box(), stage.locator(".divider").bounding_box()
    assert box is not None
    assert line is not None
    assert (line["x"] + 1 - box["x"]) / box["width"] == pytest.approx(0.2, abs=0.01)


def test_it_fits_a_phone_and_dark_rooms_and_paper(browser_page: BrowserPage) -> None:
    def paper() -> str:
        return str(browser_page.evaluate("getComputedStyle(document.body).backgroundColor"))

    label = browser_page.locator("#chart-dice svg .role-axis-label text").first
    assert paper() == "rgb(255, 255, 255)"
    ink = label.evaluate("text => getComputedStyle(text).fill")
    browser_page.emulate_media(color_scheme="dark")
    assert paper() == "rgb(21, 24, 27)"
    assert label.evaluate("text => getComputedStyle(text).fill") != ink
    browser_page.emulate_media(media="print")
    assert paper() == "rgb(255, 255, 255)"  # ink on paper is dark, also of a dark screen
    assert not browser_page.locator("#controls").is_visible()
    browser_page.emulate_media(media="screen", color_scheme="light")
    for width in (390, 1280):
        browser_page.set_viewport_size({"width": width, "height": 844})
        browser_page.wait_for_timeout(300)
        assert browser_page.evaluate("document.documentElement.scrollWidth") <= width


def test_matrices_of_classes_fit_a_phone(browser_page: BrowserPage) -> None:
    browser = browser_page.context.browser
    assert browser is not None
    opened = browser.new_page(viewport={"width": 360, "height": 800})  # charts are drawn for the width that is found
    opened.goto(browser_page.url)
    opened.wait_for_selector("body[data-ready=yes]")
    for name in ("dice", "confusion"):
        boxes = opened.locator(f"#chart-{name} svg .mark-rect.role-mark path").evaluate_all(
            "paths => paths.map(path => path.getBoundingClientRect().right)"
        )
        assert 300 < max(boxes) <= 360, name
    opened.close()
