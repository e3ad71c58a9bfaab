"""The page's charts, as Vega-Lite specifications.

Text and lines have the colours of CSS variables, so a chart follows the page into dark mode and onto paper.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harveyseg.arrays import Confusion
from harveyseg.classes import ClassList
from harveyseg.palette import model_colours
from harveyseg.record import ENSEMBLE

Spec = dict[str, Any]
"""A Vega-Lite specification."""

_ENSEMBLE = "var(--ink)"
"""Its black, which would not show on a dark page."""
_TICKS = "#2f6db3"
_AROUND_POINTS: Spec = {"zero": False, "padding": 10}
"""A scale on which no point lies half outside."""

CONFIG: Spec = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--ink)",
        "labelFontSize": 11,
        "labelFlush": False,
        "titleColor": "var(--muted)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "titleFontWeight": "normal",
    },
    "axisXBand": {"labelAngle": -60, "labelAlign": "left"},
    "legend": {"labelColor": "var(--ink)", "titleColor": "var(--muted)", "titleFontWeight": "normal"},
    "header": {"labelColor": "var(--ink)", "titleColor": "var(--muted)"},
    "title": {"color": "var(--ink)"},
    "text": {"color": "var(--ink)"},
    "rule": {"color": "var(--muted)"},
}
"""What all charts share; page.js changes some of it on a phone."""


def _numbered_cells(encoding: Mapping[str, Any], colour: Mapping[str, Any]) -> list[Spec]:
    """Coloured cells, with their number if it fits; ``colour`` names a field of 0..1, on a scale that gets brighter."""
    field = colour["field"]
    contrast = {"condition": {"test": f"datum.{field} > 0.6", "value": "#111111"}, "value": "#ffffff"}
    fits = {"expr": "bandwidth('x') < 20 ? 0 : 1"}
    number = {"text": {"field": field, "type": "quantitative", "format": ".2f"}, "color": contrast}
    return [
        {"mark": {"type": "rect"}, "encoding": {**encoding, "color": colour}},
        {"mark": {"type": "text", "fontSize": 9, "opacity": fits}, "encoding": {**encoding, **number}},
    ]


def _chart(description: str, values: Sequence[Mapping[str, Any]] | pd.DataFrame, **parts: Any) -> Spec:
    rows = values.to_dict("records") if isinstance(values, pd.DataFrame) else list(values)
    return {
        "description": description,
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": rows},
        **parts,
    }


def _height(labels: Iterable[Any], step: int) -> int:
    """Pixels for a row of each different label; Vega-Lite's own ``step`` warns where the width is the container's."""
    return step * len(set(labels))


def colours_of(models: Sequence[str]) -> dict[str, str]:
    """A colour for each model, the same as elsewhere."""
    return model_colours(models) | ({ENSEMBLE: _ENSEMBLE} if ENSEMBLE in models else {})


_SHAPES = {"held out": "circle", "held out, argmax maps": "triangle-up", "test": "diamond"}


def scores_chart(rows: Sequence[Mapping[str, Any]], baseline: float | None, colours: Mapping[str, str]) -> Spec:
    """Scores of all models, of photos that share the all-empty baseline.

    Args:
        rows: model, what (``"held out"`` and ``"held out, argmax maps"``, or ``"test"``) and score.
        baseline: of these photos.
        colours: by model.
    """
    kinds = [what for what in _SHAPES if any(row["what"] == what for row in rows)]
    points = {
        "mark": {"type": "point", "filled": True, "size": 90, "opacity": 0.9},
        "encoding": {
            "x": {"field": "score", "type": "quantitative", "scale": _AROUND_POINTS, "title": "score"},
            "y": {"field": "model", "type": "nominal", "sort": None, "title": None, "axis": {"grid": True}},
            "color": _model_colour(colours),
            "shape": {
                "field": "what",
                "type": "nominal",
                "scale": {"domain": kinds, "range": [_SHAPES[kind] for kind in kinds]},
                "legend": {"title": None, "orient": "top", "symbolFillColor": "var(--muted)"},
            },
            "tooltip": _tooltips("model", "what", score=".5f"),
        },
    }
    layers: list[Spec] = [points]
    if baseline is not None:
        line = {"type": "rule", "strokeDash": [4, 3], "tooltip": f"all empty: {baseline:.5f}"}
        x = {"field": "score", "type": "quantitative"}
        layers.insert(0, {"data": {"values": [{"score": baseline}]}, "mark": line, "encoding": {"x": x}})
    height = _height((row["model"] for row in rows), 24)
    return _chart("Scores of all models", rows, height=height, layer=layers)


def curve_chart(rows: Sequence[Mapping[str, Any]], measure: str, colours: Mapping[str, str]) -> Spec:
    """One measure of every training for each epoch; the signal ``shown`` lists the models that are drawn.

    Args:
        rows: model, fold, epoch, and the measure.
        measure: a column of history.csv.
        colours: by model.
    """
    values = [row for row in rows if row[measure] is not None]
    return _chart(
        f"{measure} of every training after each epoch",
        values,
        height=220,
        params=[{"name": "shown", "value": list(colours)}],
        transform=[
            {"filter": "indexof(shown, datum.model) >= 0"},
            {"calculate": "datum.model + datum.fold", "as": "run"},
        ],
        mark={"type": "line", "interpolate": "linear", "strokeWidth": 1.8, "point": {"size": 14}},
        encoding={
            "x": {"field": "epoch", "type": "quantitative", "axis": {"tickMinStep": 1, "format": "d"}},
            "y": {"field": measure, "type": "quantitative", "scale": {"zero": False}, "title": None},
            "color": _model_colour(colours),
            "detail": {"field": "run"},
            "tooltip": _tooltips("model", "fold", "epoch", **{measure: ".5f"}),
        },
    )


def dice_chart(rows: Sequence[Mapping[str, Any]], classes: Sequence[str], models: Sequence[str]) -> Spec:
    """A heat map of Dice, classes x models; the signal ``maps`` chooses the maps.

    Args:
        rows: name, model, maps (``"submitted"`` or ``"argmax"``), dice, photos.
        classes: names in the order of the rows.
        models: in the order of the columns.
    """
    encoding = {
        "x": {"field": "model", "type": "nominal", "sort": list(models), "title": None, "axis": _top_labels()},
        "y": {"field": "name", "type": "nominal", "sort": list(classes), "title": None},
        "tooltip": _tooltips("model", "name", dice=".4f", photos="d"),
    }
    colour = {
        "field": "dice",
        "type": "quantitative",
        "scale": {"domain": [0, 1], "scheme": "viridis"},
        "legend": {"title": "Dice", "orient": "bottom", "gradientLength": {"expr": "min(200, width)"}},
    }
    return _chart(
        "Dice of each class and model",
        rows,
        height=_height(classes, 19),
        params=[{"name": "maps", "value": "submitted"}],
        transform=[{"filter": "datum.maps == maps"}],
        layer=_numbered_cells(encoding, colour),
    )


def confusion_chart(confusion: Confusion, classes: ClassList) -> Spec:
    """The share of each true class's pixels that get each class, in logarithmic colours.

    Args:
        confusion: int64 (C, C), true class by row, summed over the photos.
        classes: what they are.
    """
    true = confusion.sum(1)
    occurring = np.flatnonzero(true + confusion.sum(0)).tolist()
    rows = [
        {
            "true": classes.names[row],
            "predicted": classes.names[column],
            "share": float(confusion[row, column] / true[row]),
            "pixels": int(confusion[row, column]),
        }
        for row in occurring
        for column in occurring
        if confusion[row, column]
    ]
    names = [classes.names[index] for index in occurring]
    sort = {"sort": names, "scale": {"domain": names}, "title": None}
    return _chart(
        "Confusion of classes in the argmax maps",
        rows,
        height=_height(names, 19),
        mark={"type": "rect"},
        encoding={
            "x": {"field": "predicted", "type": "nominal", "axis": _top_labels(), **sort},
            "y": {"field": "true", "type": "nominal", **sort},
            "color": {
                "field": "share",
                "type": "quantitative",
                "scale": {"type": "log", "domain": [1e-4, 1], "clamp": True, "scheme": "viridis"},
                "legend": {
                    "title": "share of the true class's pixels",
                    "orient": "bottom",
                    "gradientLength": {"expr": "min(260, width)"},
                    "values": [1e-4, 1e-3, 0.01, 0.1, 1],
                    "format": "~%",
                },
            },
            "tooltip": _tooltips("true", "predicted", share=".3%", pixels=","),
        },
    )


def shares_chart(shares: pd.DataFrame, classes: ClassList) -> Spec:
    """The share of each class in the pixels, on a logarithmic scale.

    Args:
        shares: class_shares.csv, a row for each class by index.
        classes: what they are.
    """
    rows = shares[shares["pixel_share"] > 0].sort_values("pixel_share", ascending=False, kind="stable")
    names = rows["name"].tolist()
    colours = [classes.classes[index].color for index in rows.index]
    x = {"field": "pixel_share", "type": "quantitative", "scale": {"type": "log"}, "title": "share of all pixels"}
    axis = {"format": "~%", "labelOverlap": True, "tickCount": 5}
    return _chart(
        "Share of each class in the pixels of the training photos",
        rows[["name", "pixel_share", "photos"]],
        height=_height(names, 19),
        mark={"type": "point", "filled": True, "size": 110, "opacity": 1, "stroke": "var(--muted)", "strokeWidth": 1},
        encoding={
            "x": x | {"axis": axis},
            "y": {"field": "name", "type": "nominal", "sort": names, "title": None, "axis": {"grid": True}},
            "color": {"field": "name", "type": "nominal", "scale": {"domain": names, "range": colours}, "legend": None},
            "tooltip": _tooltips("name", pixel_share=".4%", photos="d"),
        },
    )


def split_chart(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> Spec:
    """How many photos of each fold hold each class.

    Args:
        rows: name, fold (a text), photos.
        classes: names in the order of the rows.
    """
    encoding = {
        "x": {
            "field": "fold",
            "type": "nominal",
            "title": None,
            "axis": _top_labels() | {"labelAngle": 0, "labelAlign": "center"},
        },
        "y": {"field": "name", "type": "nominal", "sort": list(classes), "title": None},
        "tooltip": _tooltips("name", "fold", photos="d"),
    }
    colour = {"field": "photos", "type": "quantitative", "scale": {"scheme": "viridis"}, "legend": None}
    text = {"field": "photos", "type": "quantitative"}
    return _chart(
        "Photos of each fold that hold each class",
        rows,
        height=_height(classes, 19),
        transform=[{"joinaggregate": [{"op": "max", "field": "photos", "as": "most"}]}],
        layer=[
            {"mark": {"type": "rect"}, "encoding": encoding | {"color": colour}},
            {
                "mark": {"type": "text", "fontSize": 9},
                "encoding": encoding
                | {
                    "text": text,
                    "color": {
                        "condition": {"test": "datum.photos > 0.6 * datum.most", "value": "#111111"},
                        "value": "#ffffff",
                    },
                },
            },
        ],
    )


def weights_chart(weights: Mapping[str, float], colours: Mapping[str, str]) -> Spec:
    """A bar for each model's weight in the ensemble."""
    rows = [{"model": model, "weight": weight} for model, weight in weights.items()]
    return _chart(
        "Weights of the models in the ensemble",
        rows,
        height=_height(weights, 22),
        mark={"type": "bar", "height": {"band": 0.7}},
        encoding={
            "x": {"field": "weight", "type": "quantitative", "axis": {"format": "~%"}, "title": "weight"},
            "y": {"field": "model", "type": "nominal", "sort": None, "title": None},
            "color": _model_colour(colours),
            "tooltip": _tooltips("model", weight=".3f"),
        },
    )


def diversity_chart(rows: Sequence[Mapping[str, Any]], models: Sequence[str]) -> Spec:
    """A heat map of pairs of models; the signal ``measure`` chooses what it shows.

    Args:
        rows: first, second, measure, value; both orders of a pair.
        models: in the order of rows and columns.
    """
    sort = {"sort": list(models), "title": None}
    encoding = {
        "x": {"field": "first", "type": "nominal", "axis": _top_labels(), **sort},
        "y": {"field": "second", "type": "nominal", **sort},
        "tooltip": _tooltips("first", "second", value=".3f"),
    }
    colour = {
        "field": "value",
        "type": "quantitative",
        "scale": {"domain": [0, 1], "clamp": True, "scheme": "viridis"},
        "legend": None,
    }
    return _chart(
        "How much two models differ",
        rows,
        height=_height(models, 24),
        params=[{"name": "measure", "value": "disagreement"}],
        transform=[{"filter": "datum.measure == measure"}],
        layer=_numbered_cells(encoding, colour),
    )


def thresholds_chart(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> Spec:
    """The probability from which pixels are submitted, a tick for each photo.

    Args:
        rows: name, photo, threshold (0..1), dice.
        classes: names in the order of the rows.
    """
    return _chart(
        "Threshold of each photo and class",
        rows,
        height=_height(classes, 19),
        mark={"type": "tick", "thickness": 2, "opacity": 0.7, "color": _TICKS},
        encoding={
            "x": {"field": "threshold", "type": "quantitative", "scale": {"domain": [0, 1]}, "title": "probability"},
            "y": {
                "field": "name",
                "type": "nominal",
                "sort": list(classes),
                "scale": {"domain": list(classes)},
                "title": None,
                "axis": {"grid": True},
            },
            "tooltip": _tooltips("name", "photo", threshold=".3f", dice=".3f"),
        },
    )


def versions_chart(rows: Sequence[Mapping[str, Any]], models: Sequence[str], versions: Sequence[str]) -> Spec:
    """The scores of several versions of the pipeline.

    Args:
        rows: model, version, score.
        models: in the order of the rows.
        versions: in the order of the colours.
    """
    scale = {"domain": list(versions), "scheme": "dark2"}  # other colours than those of the models
    return _chart(
        "Scores of the versions",
        rows,
        height=_height(models, 24),
        mark={"type": "point", "filled": True, "size": 90, "opacity": 0.85},
        encoding={
            "x": {"field": "score", "type": "quantitative", "scale": _AROUND_POINTS, "title": "score, held out"},
            "y": {"field": "model", "type": "nominal", "sort": list(models), "title": None},
            "color": {
                "field": "version",
                "type": "nominal",
                "scale": scale,
                "legend": {"title": None, "orient": "top"},
            },
            "tooltip": _tooltips("model", "version", score=".5f"),
        },
    )


def _model_colour(colours: Mapping[str, str]) -> Spec:
    scale = {"domain": list(colours), "range": list(colours.values())}
    return {"field": "model", "type": "nominal", "scale": scale, "legend": None}


def _top_labels() -> Spec:
    return {"orient": "top", "title": None}


def _tooltips(*fields: str, **formats: str) -> list[Spec]:
    numbers = [{"field": name, "type": "quantitative", "format": text} for name, text in formats.items()]
    return [{"field": name, "type": "nominal"} for name in fields] + numbers
