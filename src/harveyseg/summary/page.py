"""Writing the page: its content put into the template, with the styles, the script and the drawing library."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from harveyseg.config.settings import section
from harveyseg.files import refuse_foreign, write_text
from harveyseg.plots import precise_percent
from harveyseg.postprocess.select import PostprocessParams
from harveyseg.project import git_output, git_state
from harveyseg.record import ALL_EMPTY, ENSEMBLE
from harveyseg.summary import charts, content
from harveyseg.summary.finished import FinishedPipeline, read_finished_pipeline
from harveyseg.summary.gallery import Gallery, make_gallery
from harveyseg.summary.links import find_links
from harveyseg.summary.outdated import results_digest
from harveyseg.summary.pairs import Pairs, WorstPair, compute_pairs, worst_pairs
from harveyseg.summary.versions import Version, changes, last_committed, moved, present_version, read_version

_TEMPLATES = Path(__file__).with_name("template")
_SIGNATURE = '<meta name="generator" content="harveyseg">'
"""Stands in the template."""
_OLD_SIGNATURE = "BSD 3-Clause. This file needs no network.</p></footer>"
"""Stands in the pages from before there was a signature."""
_WORST = 10
_ABSENT = "\u2013"
"""A dash."""


@dataclass(frozen=True)
class Summary:
    """What was written."""

    path: Path
    size: int
    """Bytes."""
    winner: str


def write_summary(
    path: Path, params: Path, data: Path, compared: Sequence[str] = (), stale: Sequence[str] = ()
) -> Summary:
    """Write the page of a finished pipeline, atomically.

    Args:
        path: the HTML file.
        params: params.yaml, in the project's root.
        data: the folder that stages write to.
        compared: experiments or commits to set next to the workspace.
        stale: what of the workspace is of other settings than params.yaml, for a warning at the top.

    Raises:
        HarveysegError: when the pipeline has not run to its end, a file is damaged, the table and the stages' files
            differ, an experiment to compare has no table, or ``path`` is a file of someone else.
    """
    refuse_foreign(path, _SIGNATURE, _OLD_SIGNATURE)
    root = params.parent
    versions = [read_version(name, name) for name in compared]  # first, since a wrong name is found at once
    workspace = read_finished_pipeline(params, data)
    winner = workspace.winner
    pairs = compute_pairs(workspace, winner, section(params, "postprocess", PostprocessParams))
    worst = worst_pairs(workspace, pairs, _WORST)
    gallery = make_gallery(workspace, pairs, {pair.position for pair in worst})
    here = present_version(params, workspace.table)
    links = find_links(params, root, workspace.outputs)
    thresholds, threshold_table = content.threshold_rows(workspace, pairs)
    context: dict[str, Any] = {
        "winner": winner,
        "results": results_digest(data),
        "stale": stale,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": git_state(root),
        "facts": _facts(workspace),
        "glance": content.glance(workspace, winner),
        "worst_class": content.worst_class(workspace, pairs),
        "scores": content.score_table(workspace.table),
        "colours": charts.colours_of(workspace.models),
        "folds": content.fold_table(workspace),
        "worst": [_worst_row(workspace, pair) for pair in worst],
        "gallery": gallery,
        "legend": _legend(workspace),
        "weights": workspace.weights,
        "mixtures": content.mixture_rows(workspace),
        "thresholds": threshold_table,
        "rules": content.rule_rows(workspace),
        "versions": _compare(versions, here),
        "committed": _committed(root, here),
        "kept": git_output(root, "status", "--porcelain", "--", "dvc.lock", "params.yaml") == "",
        "runs": content.identity_rows(workspace, links),
        "links": links,
        "costs": content.cost_rows(workspace),
    }
    drawn = _charts(workspace, pairs, thresholds, [here, *versions])
    _render(path, context | {"charts": drawn.keys()}, drawn, _gallery_data(workspace, gallery))
    return Summary(path, path.stat().st_size, winner)


def _facts(workspace: FinishedPipeline) -> Mapping[str, Any]:
    record = workspace.outputs[0].record
    classes = workspace.classes
    return {
        "source": record.data_source,
        "training": len(workspace.train.ids),
        "held_out": len(workspace.fold_models.ids),
        "test": len(workspace.test.ids),
        "test_masks": "test" in workspace.truth,
        "classes": len(classes),
        "scored": classes.scored,
        "class_list": classes.name,
        "folds": len(workspace.fold_models.folds),
        "all_folds": workspace.split["fold"].nunique(),
        "size": " x ".join(map(str, workspace.train.size)),
        "score_size": " x ".join(map(str, workspace.train.score_size)),
        "unscored": classes.names[: classes.unscored],
        "experiment": record.experiment,
        "skipped": workspace.train.skipped,
    }


def _charts(
    workspace: FinishedPipeline, pairs: Pairs, thresholds: Sequence[content.Row], versions: Sequence[Version]
) -> dict[str, charts.Spec]:
    """By the id of the element that it is drawn in; a chart that would be empty is left out."""
    order = content.class_order(workspace)
    scored = [name for name in order if name in workspace.classes.names[workspace.classes.unscored :]]
    colours = charts.colours_of(workspace.fold_models.models)
    curves = content.curve_rows(workspace)
    dice = content.dice_rows(workspace)
    held_out = {row["name"] for row in dice}
    drawn = {
        "dice": charts.dice_chart(dice, [name for name in scored if name in held_out], workspace.sources),
        "confusion": charts.confusion_chart(pairs.statistics.confusions.sum(0), workspace.classes),
        "shares": charts.shares_chart(content.read_class_shares(workspace), workspace.classes),
        "split": charts.split_chart(content.split_rows(workspace), order),
        "weights": charts.weights_chart({model: workspace.weights.chosen[model] for model in colours}, colours),
    }
    for name, (column, rows) in content.score_rows(workspace).items():
        if rows:
            drawn[name] = charts.scores_chart(
                rows, workspace.score(ALL_EMPTY, column), charts.colours_of(workspace.sources)
            )
    for measure in ("train_loss", "val_loss", "val_argmax_score"):
        drawn[f"curve-{measure}"] = charts.curve_chart(curves, measure, charts.colours_of(workspace.models))
    if diversity := content.diversity_rows(workspace):
        drawn["diversity"] = charts.diversity_chart(diversity, workspace.fold_models.models)
    if thresholds:
        drawn["thresholds"] = charts.thresholds_chart(thresholds, scored)
    if len(versions) > 1:
        rows = [
            {"model": model, "version": entry.name, "score": score}
            for entry in versions
            for model, score in entry.scores.items()
        ]
        names = [entry.name for entry in versions]
        drawn["versions"] = charts.versions_chart(rows, content.known_sources(rows), names)
    return drawn


def _worst_row(workspace: FinishedPipeline, pair: WorstPair) -> content.Row:
    rows = workspace.held_out
    photo = rows.iloc[pair.position]
    return {
        **asdict(pair),
        "photo": photo["id"],
        "fold": int(photo["fold"]),
        "name": workspace.classes.names[pair.index],
        "color": workspace.classes.classes[pair.index].color,
        "key": f"val-{photo['id']}",
    }


def _legend(workspace: FinishedPipeline) -> list[content.Row]:
    """The classes of the list, by index."""
    shares = content.read_class_shares(workspace)
    return [
        {
            "index": index,
            "name": entry.name,
            "color": entry.color,
            "scored": entry.scored,
            "occurs": bool(shares["photos"].iloc[index]),
        }
        for index, entry in enumerate(workspace.classes.classes)
    ]


def _compare(versions: Sequence[Version], here: Version) -> list[content.Row]:
    """What each version has changed against the workspace, and how its scores differ from the workspace's."""
    return [
        {"name": entry.name, "changes": changes(here, entry), "scores": moved(here, entry, list(here.scores))}
        for entry in versions
    ]


def _committed(root: Path, here: Version) -> content.Row | None:
    """What the workspace has changed since the last commit with another table; None where there is none."""
    committed = last_committed(root)
    if committed is None:
        return None
    before = committed.version
    scores = moved(before, here, list(here.scores))
    return {"name": before.name, "unread": committed.unread, "changes": changes(before, here), "scores": scores}


def _gallery_data(workspace: FinishedPipeline, gallery: Gallery) -> dict[str, Any]:
    classes = workspace.classes
    return {
        "colours": [entry.color for entry in classes.classes],
        "unscored": classes.unscored,
        "pictures": [
            {
                name: getattr(picture, name)
                for name in ("key", "width", "height", "photo", "prediction", "truth", "score", "part", "name")
            }
            for picture in gallery.pictures
        ],
    }


def _render(path: Path, context: Mapping[str, Any], drawn: Mapping[str, Any], gallery: Mapping[str, Any]) -> None:
    import vl_convert  # it takes a second

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "share": precise_percent,
        "score": _score,
        "signed": _signed,
        "short": _short,
        "code": _code,
    }
    files = {name: Markup((_TEMPLATES / name).read_text("utf-8")) for name in ("page.css", "page.js")}
    page = environment.get_template("page.html").render(
        **context,
        ensemble_name=ENSEMBLE,
        version=version("harveyseg"),
        css=files["page.css"],
        script=files["page.js"],
        # Without a snippet, which its types demand, the script is ready-made; putting one together takes 6 s.
        library=Markup(vl_convert.javascript_bundle()),  # type: ignore[call-arg]
        vega=(vl_convert.get_vega_version(), vl_convert.get_vegalite_versions()[-1]),
        chart_data=_json({"config": charts.CONFIG, "specs": dict(drawn)}),
        gallery_data=_json(gallery),
    )
    write_text(path, page)


def _json(value: Any) -> Markup:
    """JSON for a script element: without a character that could end it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _score(value: float | None) -> str:
    """Five decimals, as in the table; a dash for what is missing."""
    return _ABSENT if value is None else f"{value:.5f}"


def _signed(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:+.5f}"


def _code(text: str) -> Markup:
    """Escaped, and what is between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _short(value: float | None, decimals: int = 1) -> str:
    return _ABSENT if value is None else f"{value:,.{decimals}f}"
