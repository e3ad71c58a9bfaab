"""How much the maps that other programs make with an exported file differ from those of ``harveyseg predict``.

    harveyseg example town
    .venv/bin/python benchmarks/onnx_maps.py town [--workspace .] [--model NAME]
    .venv/bin/python benchmarks/onnx_maps.py photos --model harvey25

It needs the extra ``onnx`` and the package ``geodeep``. The networks are those of the workspace, e.g. after
``make demo``. Instead of the drawn mosaic, a folder of the competition's photos will do: each becomes a GeoTIFF
of 80 x 60 m, and all pixels count together. The maps are compared on the images' own grid, where they show
something:

- *post-processed* and *argmax* are those of ``harveyseg predict``, without and with ``--argmax``;
- *plain ONNX* resizes the mosaic to the file's resolution and puts the middles of overlapping tiles together, as
  Deepness does, without its median filter;
- *GeoDeep* is that of its package, and *GeoDeep, half the resolution* of a mosaic with pixels of exactly half the size
  that the file names: GeoDeep shrinks by whole factors only.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import geodeep
import numpy as np
import onnxruntime
import pandas as pd
import rasterio
from affine import Affine
from PIL import Image
from rasterio.enums import ColorInterp

from harveyseg import Predictor
from harveyseg.arrays import ClassMap, Photo
from harveyseg.data.resize import nearest_classes
from harveyseg.geo.mosaic import MosaicOptions, open_mosaic
from harveyseg.prediction.find_model import find_model
from harveyseg.prediction.onnx_file import TileLayout, write_onnx
from harveyseg.project import library_versions

CLASSES = ("Flooded", "Property Roof")
GROUND = 80.0 * 60.0
"""Square metres of ground that a photo of the competition shows."""


def main() -> None:
    """Make the maps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="the folder that `harveyseg example` wrote, or one of JPEG photos")
    parser.add_argument("--workspace", type=Path, default=Path(), help="the folder of the trained networks")
    parser.add_argument("--model", help="as for `harveyseg predict`")
    arguments = parser.parse_args()
    truth = None
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if (arguments.images / "truth.tif").is_file():
            with rasterio.open(arguments.images / "truth.tif") as file:
                truth = file.read(1).ravel()
            mosaics = [arguments.images / "mosaic.tif"]
        else:
            mosaics = [write_photo(path, scratch) for path in sorted(arguments.images.glob("*.jpg"))]
        maps = make_maps(mosaics, arguments.workspace, arguments.model, scratch)
    versions = library_versions() | {name: version(name) for name in ("geodeep", "onnxruntime")}
    print(f"\n{date.today()}, {', '.join(f'{name} {version}' for name, version in versions.items())}\n")
    names = Predictor.load(arguments.workspace, arguments.model).classes.names
    print(compare(maps, truth, [names.index(name) for name in CLASSES]).to_markdown(floatfmt=".1f"))


def make_maps(mosaics: Sequence[Path], workspace: Path, model: str | None, scratch: Path) -> dict[str, ClassMap]:
    """The maps by name, on the mosaics' own grids: their pixels one mosaic after the other, (pixels,)."""
    kinds = {"post-processed": False, "argmax": True}
    predictors = {name: Predictor.load(workspace, model, argmax=argmax) for name, argmax in kinds.items()}
    ensemble = find_model(workspace / "params.yaml", workspace / "data", model)
    file = write_onnx(ensemble, scratch / "flood.onnx")
    parts: dict[str, list[ClassMap]] = {}
    for mosaic in mosaics:
        maps = {}
        for name, predictor in predictors.items():
            prediction = predictor.predict(mosaic, scratch / name)
            maps[name] = prediction.read_class_map()
        pixel = prediction.record.pixel_m
        assert pixel is not None
        if mosaic is mosaics[0]:
            print(f"{file.describe()}; the mosaic has pixels of {100 * pixel[0]:.2f} cm")
        size = maps["argmax"].shape
        whole = (size[0], size[1])
        plain = classify_tiles(
            resized(mosaic, pixel, file.layout.pixel), file.path, file.layout, ensemble.inference.overlap
        )
        maps["plain ONNX"] = nearest_classes(plain, whole)
        maps["GeoDeep"] = nearest_classes(geodeep.segment(str(mosaic), str(file.path)), whole)
        finer = scratch / "finer.tif"
        write_resized(finer, mosaic, pixel, file.layout.pixel / 2)
        maps["GeoDeep, half the resolution"] = nearest_classes(geodeep.segment(str(finer), str(file.path)), whole)
        for name, class_map in maps.items():
            parts.setdefault(name, []).append(class_map.ravel())
    return {name: np.concatenate(pixels) for name, pixels in parts.items()}


def compare(maps: dict[str, ClassMap], truth: ClassMap | None, classes: list[int]) -> pd.DataFrame:
    """Percentages of the pixels that show something; right are none where the truth is not known."""
    seen = maps["argmax"] != 255
    rows = {}
    for name, own in maps.items():
        rows[name] = {
            "right": np.nan if truth is None else np.mean(own[seen] == truth[seen]),
            "differs from post-processed": np.mean(own[seen] != maps["post-processed"][seen]),
            "differs from argmax": np.mean(own[seen] != maps["argmax"][seen]),
            **{text: np.mean(own[seen] == index) for text, index in zip(CLASSES, classes, strict=True)},
            "classified where nothing was seen": np.nan if seen.all() else np.mean(own[~seen] != 255),
        }
    return 100 * pd.DataFrame(rows).T.rename_axis("map, % of the pixels").dropna(axis="columns")


def classify_tiles(photo: Photo, model: Path, layout: TileLayout, overlap: float) -> ClassMap:
    """The class map of a photo at the file's resolution; at inner borders half of the overlap is cut off each tile."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    side, cut = layout.side, int(layout.side * overlap) // 2
    step = side - 2 * cut
    height, width = photo.shape[:2]
    rows, columns = (max(1, math.ceil((length - 2 * cut) / step)) for length in (height, width))
    padded = np.zeros((rows * step + 2 * cut, columns * step + 2 * cut, 3), np.float32)
    padded[:height, :width] = photo / np.float32(255)
    class_map = np.empty(padded.shape[:2], np.uint8)
    for top in range(0, rows * step, step):
        for left in range(0, columns * step, step):
            tile = padded[top : top + side, left : left + side].transpose(2, 0, 1)[None]
            classes: Any = session.run(None, {"tiles": np.ascontiguousarray(tile)})[0][0].argmax(0)
            kept = (slice(cut if top else 0, side), slice(cut if left else 0, side))  # the next tile overwrites the end
            class_map[top : top + side, left : left + side][kept] = classes[kept]
    return class_map[:height, :width]


def write_photo(path: Path, folder: Path) -> Path:
    """Write a JPEG photo as a GeoTIFF that shows ``GROUND``."""
    with Image.open(path) as opened:
        photo = np.asarray(opened.convert("RGB"))
    height, width = photo.shape[:2]
    pixel = math.sqrt(GROUND / (height * width))
    written = folder / f"{path.stem}.tif"
    with rasterio.open(
        written, "w", driver="GTiff", height=height, width=width, count=3, dtype="uint8", crs="EPSG:32615",
        transform=Affine(pixel, 0, 270_000, 0, -pixel, 3_290_000), tiled=True, photometric="RGB",
    ) as file:  # fmt: skip
        file.write(photo.transpose(2, 0, 1))
    return written


def resized(path: Path, pixel: tuple[float, float], wanted: float) -> Photo:
    """The mosaic with pixels of ``wanted`` metres, black where nothing was seen."""
    with open_mosaic(path, MosaicOptions()) as mosaic:
        height, width = (round(side * own / wanted) for side, own in zip(mosaic.size, pixel, strict=True))
        rows, size = slice(0, height), (height, width)
        return np.where(mosaic.seen(rows, size)[..., None], mosaic.colours(rows, size), 0).astype(np.uint8)


def write_resized(path: Path, mosaic: Path, pixel: tuple[float, float], wanted: float) -> None:
    """Write :func:`resized` as a GeoTIFF."""
    photo = resized(mosaic, pixel, wanted)
    height, width = photo.shape[:2]
    with rasterio.open(mosaic) as file:
        # GeoDeep takes the grid's metres for those on the ground; 0.05% more, and it would not shrink at all.
        crs, transform = file.crs, Affine(wanted, 0, file.transform.c, 0, -wanted, file.transform.f)
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=3, dtype="uint8", crs=crs, transform=transform,
        tiled=True, photometric="RGB",
    ) as file:  # fmt: skip
        file.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        file.write(photo.transpose(2, 0, 1))


if __name__ == "__main__":
    main()
