"""Prepared views of the experiment in MLflow's UI: which runs, columns and charts it shows without a click.

MLflow keeps a view that somebody saves in the UI as a tag of the experiment. The format of the tag is not public, so it
is known here only: it is what MLflow 3.17 writes for "Views", "Save as new view". Users' own views have other keys.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_TAG = "mlflow.sharedViewState."
_FORMAT = (3, 17)
"""The oldest MLflow whose UI is known to read this format; a later major version may have another one."""
_REVISION_MS = 1_795_910_400_000
"""The time that the UI shows for the views. Raise it with every change of them: an older harveyseg then leaves them."""

_STUDY_KEY = "harveyseg-study-"

_NOT_PIPELINE = "tags.`harveyseg.kind` != 'pipeline'"
"""Versions before 0.2.0 grouped runs under one without results."""
_SCORE = "metrics.`val/score`"
_COLUMNS = (
    *(f"metrics.`{name}`" for name in ("val/score", "val/gain_over_empty", "test/score", "val/macro_dice")),
    "params.`train.lr`",
    *(f"metrics.`{name}`" for name in ("epochs", "seconds")),
    # Those above, which tell what is best and what was changed, fit a window of 1600 pixels; the others need scrolling.
    *(f"metrics.`{name}`" for name in ("val/argmax_score", "val/miou", "written/val_loss")),
    *(f"params.`{name}`" for name in ("train.batch_size", "resize-cache.size")),
    *(f"tags.`harveyseg.{name}`" for name in ("model", "fold", "experiment")),
)

_NAME = "attributes.`Run Name`"
"""The column that every table has."""
_CREATED = "attributes.`Created`"
"""One that the UI shows in any case."""
_WIDTHS = {_NAME: 240, _CREATED: 120}
"""In pixels; the other columns are as wide as their headings."""


@dataclass(frozen=True)
class View:
    """A prepared view."""

    key: str
    """Part of its address."""
    name: str
    """As the UI's menu "Views" shows it."""
    charts: bool
    """Whether it opens as charts, else as a table."""
    state: Mapping[str, Any]
    """What the UI keeps of a view."""

    @property
    def tag(self) -> tuple[str, str]:
        """The experiment's tag that holds the view."""
        envelope = {"name": self.name, "createdAt": _REVISION_MS, "updatedAt": _REVISION_MS}
        return _TAG + self.key, json.dumps({**envelope, "state": json.dumps(self.state, separators=(",", ":"))})

    def address(self, server: str, experiment_id: str, version: str) -> str:
        """Where the view is shown.

        Args:
            server: the address of the UI, e.g. ``http://127.0.0.1:5000``.
            experiment_id: of the experiment that has the tags.
            version: of MLflow. One that may have another format gets the address of the plain list, sorted by score.

        >>> VIEWS[0].address("http://127.0.0.1:5000", "1", "3.17.2")
        'http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=harveyseg-scores'
        >>> VIEWS[0].address("https://mlflow.example.org", "1", "4.0.0")
        'https://mlflow.example.org/#/experiments/1/runs?orderByKey=metrics.%60val%2Fscore%60&orderByAsc=false'
        """
        page = f"{server}/#/experiments/{experiment_id}/runs?"
        major, minor = (int(part) for part in version.split(".")[:2])
        if major != _FORMAT[0] or (major, minor) < _FORMAT:
            return f"{page}orderByKey=metrics.%60val%2Fscore%60&orderByAsc=false"
        mode = "&compareRunsMode=CHART" if self.charts else ""
        return f"{page}workflowType=machine_learning&viewStateShareKey={self.key}{mode}"


def outdated_views(tags: Mapping[str, str], views: Iterable[View]) -> dict[str, str]:
    """The tags of these views that an experiment lacks or holds in an older form.

    Args:
        tags: of the experiment.
        views: those that it shall have.
    """
    wanted = dict(view.tag for view in views)
    return {name: value for name, value in wanted.items() if _is_outdated(tags.get(name), value)}


def experiment_views(tags: Mapping[str, str]) -> list[View]:
    """The prepared views of an experiment: those that each one has, then those of the studies that were run in it.

    Args:
        tags: of the experiment.
    """
    studies = sorted(name.removeprefix(_TAG + _STUDY_KEY) for name in tags if name.startswith(_TAG + _STUDY_KEY))
    return [*VIEWS, *map(study_view, studies)]


def study_view(study: str) -> View:
    """The runs of a study, grouped by variant.

    Args:
        study: its name, as ``harveyseg study --list`` prints it.
    """
    tag = f"study.{study}"
    columns = [f"tags.`{tag}`", *(column for column in _COLUMNS if column != "tags.`harveyseg.experiment`")]
    state = _state(f"tags.`{tag}` LIKE '%'", columns, group_by=tag)
    return View(_STUDY_KEY + study, f"Study {study}", False, state)


def _is_outdated(tag: str | None, wanted: str) -> bool:
    """Whether a view's tag shall be replaced: not where a newer harveyseg wrote it."""
    if tag is None or tag == wanted:
        return tag is None
    try:
        return int(json.loads(tag)["updatedAt"]) <= _REVISION_MS
    except (ValueError, TypeError, KeyError):  # no view
        return True


def _state(
    condition: str = _NOT_PIPELINE,
    columns: Sequence[str] = _COLUMNS,
    group_by: str | None = None,
    charts: Sequence[Mapping[str, Any]] = (),
    sections: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The UI's state.

    Args:
        condition: which runs, in MLflow's filter language.
        columns: of the table, in this order.
        group_by: the tag whose equal values make a group, whose row shows the mean over its runs.
        charts: see :func:`_bars` and its like; the UI's own for none.
        sections: see :func:`_section`.
    """
    groups = None
    if group_by is not None:
        groups = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": group_by}]}
    state: dict[str, Any] = {
        "searchFilter": condition,
        "orderByKey": _SCORE,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
        "columnOrder": [_NAME, *columns],
        "columnWidths": _WIDTHS | {column: 26 + 7 * len(column.split("`")[1]) for column in columns},
        "runsHiddenMode": "FIRST_20_RUNS",
        "groupBy": groups,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "isAccordionReordered": True,  # else the UI sorts the sections by their names
    }
    if charts:
        state |= {"compareRunCharts": list(charts), "compareRunSections": list(sections)}
    return state


def _section(name: str, shown: bool, **changes: Any) -> dict[str, Any]:
    """A section of charts, folded unless shown. A metric without a chart gets one in the section of its prefix."""
    return {"uuid": name, "name": name, "display": shown, "isReordered": True, "deleted": False} | changes


def _chart(kind: str, section: str, key: str, **settings: Any) -> dict[str, Any]:
    common = {"uuid": f"{section} {key}", "type": kind, "metricSectionId": section}
    return {**common, "deleted": False, "isGenerated": False, "runsCountToCompare": 20, **settings}


def _bars(section: str, metric: str) -> dict[str, Any]:
    return _chart("BAR", section, metric, metricKey=metric)


def _curve(section: str, metric: str) -> dict[str, Any]:
    return _chart(
        "LINE",
        section,
        metric,
        metricKey=metric,
        selectedMetricKeys=[metric],
        displayPoints=False,
        scaleType="linear",
        xAxisKey="step",
        xAxisScaleType="linear",
        selectedXAxisMetricKey="",
        yAxisKey="metric",
        yAxisExpressions=[],
        range={},
        lineSmoothness=0,
        ignoreOutliers=False,
        useGlobalXaxisKey=True,
        useGlobalLineSmoothing=True,
    )


def _scatter(section: str, x: str, y: str) -> dict[str, Any]:
    axes = {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}
    return _chart("SCATTER", section, f"{y} {x}", **axes)


def _images(section: str, key: str) -> dict[str, Any]:
    return _chart("IMAGE", section, key, imageKeys=[key], step=1, showRunParams=False)


_CHARTS = (
    _bars("Scores", "val/score"),
    _bars("Scores", "val/gain_over_empty"),  # the differences, which bars of scores hide
    _scatter("Scores", "seconds", "val/score"),
    _curve("Learning curves", "epoch/train_loss"),
    _curve("Learning curves", "epoch/val_loss"),
    _curve("Learning curves", "epoch/val_argmax_score"),
    _images("Predictions while training", "predictions"),  # of harveyseg.tracking.preview
)
_SECTIONS = (
    _section("Scores", True),
    _section("Learning curves", True),
    _section("Predictions while training", True, columns=1),
    _section("val/dice", True, columns=3, cardHeight=280),  # one chart for each class, which the UI adds
    *(
        _section(name, False)
        for name in ("val", "test", "written", "epoch", "kaggle", "Model metrics", "System metrics")
    ),
)

VIEWS = (
    View("harveyseg-scores", "Scores", False, _state()),
    View("harveyseg-charts", "Charts", True, _state(charts=_CHARTS, sections=_SECTIONS)),
    View("harveyseg-folds", "Folds", False, _state("tags.`harveyseg.kind` = 'train'", group_by="harveyseg.model")),
)
"""The prepared views of every experiment; the first one is opened."""
