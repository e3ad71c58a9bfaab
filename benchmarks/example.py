"""How right is `harveyseg predict` on the drawn town of `harveyseg example`? Print that, and draw docs/example.jpg.

    harveyseg example town
    harveyseg predict town/mosaic.tif --out maps
    harveyseg assess maps --buildings town/buildings.gpkg --roads town/roads.gpkg
    .venv/bin/python benchmarks/example.py town maps

The truth is assessed by the same rules, so what differs comes from the networks.
"""

import sys
from pathlib import Path

import geopandas
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rasterio
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from harveyseg.arrays import BoolArray, ClassMap
from harveyseg.classes import HARVEY25
from harveyseg.geo.assessment import assess
from harveyseg.geo.polygons import class_polygons
from harveyseg.plots import colourise

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "example.jpg"
CLASSES = ("Flooded", "Property Roof", "Road / Highway", "Trees / Shrubs", "Grass", "Swimming Pool", "Vehicle")
STATES = {"in water": "#1f6fd6", "touched": "#6fc3f2", "dry": "#f2b134", "unknown": "#9a9a9a"}


def main(town: Path, maps: Path) -> None:
    """Print precision and recall of some classes and the states of the buildings, and draw the picture."""
    with rasterio.open(town / "truth.tif") as file:
        truth, transform, crs, bounds = file.read(1), file.transform, file.crs, file.bounds
    with rasterio.open(maps / "mosaic.tif") as file:
        predicted = file.read(1)
    with rasterio.open(town / "mosaic.tif") as file:
        mosaic = file.read((1, 2, 3, 4)).transpose(1, 2, 0)
    seen = truth != 255
    print(f"right: {np.mean(truth[seen] == predicted[seen]):.0%} of the pixels\n")
    print(_rates(truth[seen], predicted[seen]).to_markdown(floatfmt=".2f"))
    polygons = class_polygons(truth, seen, HARVEY25, transform, crs.to_wkt(), transform.a**2)
    buildings, roads = (geopandas.read_file(town / f"{name}.gpkg") for name in ("buildings", "roads"))
    true = assess(polygons, buildings, roads)
    measured = geopandas.read_file(maps / "mosaic_assessment.gpkg", layer="buildings").to_crs(crs)
    both = true.buildings.set_index("number")["state"].to_frame("truth").join(measured.set_index("number")["state"])
    print("\nBuildings by their true state (rows) and by that on the predicted map:\n")
    print(pd.crosstab(both["truth"], both["state"]).to_markdown())
    print("\n", {name: round(value, 1) for name, value in true.summary.items() if name.startswith("road")})
    extent = (bounds.left, bounds.right, bounds.bottom, bounds.top)
    figure, axes = plt.subplots(1, 3, figsize=(12, 5.9), layout="constrained")
    images = {"the mosaic": mosaic, "its class map": colourise(predicted, HARVEY25), "its buildings": mosaic}
    for axis, (title, image) in zip(axes, images.items(), strict=True):
        axis.imshow(image, extent=extent)
        axis.set_title(title)
        axis.set_axis_off()
    _draw_states(axes[2], measured)
    axes[2].set(xlim=extent[:2], ylim=extent[2:])
    figure.savefig(PICTURE, dpi=90, pil_kwargs={"quality": 85})
    print(f"\n{PICTURE}")


def _rates(truth: ClassMap, predicted: ClassMap) -> pd.DataFrame:
    ids = [HARVEY25.names.index(name) for name in CLASSES]

    def share(hits: BoolArray, among: BoolArray) -> float:
        return float(hits.sum() / max(among.sum(), 1))

    return pd.DataFrame(
        {
            "precision": [share((truth == i) & (predicted == i), predicted == i) for i in ids],
            "recall": [share((truth == i) & (predicted == i), truth == i) for i in ids],
        },
        index=pd.Index(CLASSES, name="class"),
    )


def _draw_states(axis: Axes, buildings: geopandas.GeoDataFrame) -> None:
    for state, colour in STATES.items():
        some = buildings[buildings["state"] == state]
        if len(some):
            some.plot(ax=axis, facecolor=colour, edgecolor="black", linewidth=0.5)
    handles = [Patch(color=colour, label=state) for state, colour in STATES.items()]
    axis.legend(handles=handles, loc="upper center", ncols=len(STATES), bbox_to_anchor=(0.5, 0), frameon=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
