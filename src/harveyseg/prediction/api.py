"""Prediction from Python: ``from harveyseg import Predictor`` does what ``harveyseg predict`` does."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import rasterio

from harveyseg.arrays import ByteArray, ClassMap
from harveyseg.classes import ClassList
from harveyseg.data.naming import stem_of
from harveyseg.device import explain_out_of_memory
from harveyseg.errors import HarveysegError
from harveyseg.geo.mosaic import ignoring_missing_places
from harveyseg.inference.params import InferenceParams
from harveyseg.prediction.class_maps import EnsemblePredictor
from harveyseg.prediction.find_model import find_model
from harveyseg.prediction.inputs import Input
from harveyseg.prediction.options import parse_options, parse_reading, parse_tta
from harveyseg.prediction.pictures import PictureInMemory, find_shown
from harveyseg.prediction.predict import predict_images
from harveyseg.prediction.record import Areas, PredictionRecord, read_record
from harveyseg.prediction.scale import find_scale, warn_of_unknown_scales
from harveyseg.prediction.trained_ensemble import TrainedEnsemble
from harveyseg.tracking.registry import SCHEME

_OPTION = re.compile(r"--([a-z]+)\b")
_PARAMETERS = {"range": "value_range", "overwrite": "overwrite=True"}
"""The parameters that are not called as the option."""


@dataclass(frozen=True)
class Prediction:
    """What was predicted for one image; docs/predict.md lists the files."""

    folder: Path
    """Where the files are."""
    record: PredictionRecord
    """How it was predicted: scale, settings, networks, and a digest of each file."""

    @property
    def areas(self) -> Areas:
        """Pixels, and of each class the percentage of what was seen and, where the scale is known, square metres."""
        return self.record.areas

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of this image but its record."""
        return tuple(self.folder / name for name in self.record.outputs)

    @property
    def class_map_file(self) -> Path:
        """A PNG for a photo, a GeoTIFF for a TIFF."""
        return self._file(".png") or self.folder / f"{self.record.name}.tif"

    @property
    def vector_file(self) -> Path | None:
        """The GeoPackage; None where the image has no place on the ground."""
        return self._file(".gpkg")

    def read_class_map(self) -> ClassMap:
        """Read the class ids, uint8 (H, W); 255 where nothing was seen."""
        with ignoring_missing_places(), rasterio.open(self.class_map_file) as file:
            return np.asarray(file.read(1), np.uint8)

    def read_layer(self, name: str = "classes") -> geopandas.GeoDataFrame:
        """Read a layer of the GeoPackage: classes, buildings, roads, seen or summary.

        Raises:
            HarveysegError: when there is none, because the image has no place on the ground.
        """
        if self.vector_file is None:
            raise HarveysegError(f"{self.record.path}: has no place on the ground, so there are no polygons of it.")
        return geopandas.read_file(self.vector_file, layer=name)

    def _file(self, ending: str) -> Path | None:
        name = f"{self.record.name}{ending}"
        return self.folder / name if name in self.record.outputs else None


class Predictor:
    """Trained networks, ready to predict photos, mosaics and arrays. :meth:`load` makes one.

    >>> predictor = Predictor.load("harvey25")
    >>> predictor.classify(np.zeros((30, 40, 3), np.uint8)).shape
    (30, 40)

    Args:
        ensemble: the networks and how their probabilities become a class map.
        params: how to predict.
    """

    def __init__(self, ensemble: TrainedEnsemble, params: InferenceParams) -> None:
        self._ensemble = ensemble
        self._params = params
        self._predictor = EnsemblePredictor(ensemble, params)

    @classmethod
    def load(
        cls,
        source: str | Path = ".",
        model: str | None = None,
        *,
        tta: str | None = None,
        argmax: bool = False,
        ground: tuple[float, float] | None = None,
    ) -> "Predictor":
        """Load networks, as ``harveyseg predict`` does.

        Args:
            source: a workspace, which is a folder with ``params.yaml``; or a model folder; or a packaged model, such as
                ``"harvey25"``; or a registered model, such as ``"models:/harveyseg@champion"``.
            model: what ``--model`` takes in that workspace; None for its ensemble, and for harvey25 where nothing was
                ever trained.
            tta: ``"none"``, ``"flips"`` or ``"d4"``, instead of the model's own test-time augmentation.
            argmax: give each pixel its most probable class, without post-processing.
            ground: (height, width) in metres of the ground that a training photo shows, instead of what the model says.

        Raises:
            HarveysegError: when there is no such model, or a file of it is absent or damaged.
        """
        if model is None and str(source).startswith(SCHEME):
            source, model = ".", str(source)
        folder = Path(source)
        if model is None and folder != Path() and not (folder / "params.yaml").exists():
            model = str(source)
        with _parameters_named():
            changes = {} if tta is None else {"tta": parse_tta(tta)}
            ensemble = find_model(folder / "params.yaml", folder / "data", model, argmax, ground)
        return cls(ensemble, ensemble.inference.model_copy(update=changes))

    @property
    def classes(self) -> ClassList:
        """The classes of the maps: ids, names, colours."""
        return self._ensemble.classes

    def predict(
        self,
        path: str | Path,
        out: str | Path,
        *,
        gsd: float | None = None,
        bands: str | None = None,
        value_range: str | None = None,
        nodata: str | None = None,
        crs: str | None = None,
        probabilities: str | None = None,
        geojson: bool = False,
        overwrite: bool = False,
    ) -> Prediction:
        """Predict a photo or a mosaic, exactly as ``harveyseg predict`` does, and write its files.

        The options are those of the command, in the same form. An image that ``out`` holds already, predicted in the
        same way, is not predicted again.

        Args:
            path: a JPEG, PNG, WebP or TIFF file.
            out: the folder of the files; made when absent.
            gsd: centimetres of ground that a pixel shows, where the file does not say it.
            bands: which bands of a TIFF are red, green and blue, from 1: ``"3,2,1"``.
            value_range: which values of a TIFF are black and white: ``"0,4095"`` or ``"auto"``.
            nodata: the colour of an undeclared frame: ``"0"``, ``"255"`` or ``"none"``.
            crs: the system of a file with a grid but without one: ``"EPSG:32615"``.
            probabilities: classes whose probabilities are written as well: ``"flooded,water body"``.
            geojson: also write polygons as GeoJSON.
            overwrite: replace a prediction that was made in another way.

        Raises:
            HarveysegError: when the file cannot be read, its scale is impossible, or it was predicted in another way.
        """
        if not Path(path).is_file():
            raise HarveysegError(
                f"{path}: no such file. `harveyseg predict` takes folders and patterns; this, one file."
            )
        with _parameters_named():
            reading = parse_reading(bands, value_range, nodata, crs)
            options = parse_options(self.classes, reading, probabilities, geojson, gsd, overwrite)
            outcome = predict_images([str(path)], self._ensemble, self._params, Path(out), options)
            for error in outcome.errors:
                raise error
        record = read_record(Path(out) / f"{stem_of(Path(path))}.json")
        assert record is not None  # an image that was predicted, now or before, has one
        return Prediction(Path(out), record)

    def classify(self, photo: ByteArray, gsd: float | None = None) -> ClassMap:
        """Classify the pixels of an array, as ``harveyseg predict --gsd`` does those of a photo.

        Args:
            photo: uint8 (H, W, 3), RGB, or (H, W, 4) with an alpha channel that is 0 where nothing was seen. Without
                one, a black frame was not seen.
            gsd: centimetres of ground that a pixel shows; without it, the array is taken to show as much ground as a
                training photo.

        Returns:
            Class ids, uint8 (H, W); 255 where nothing was seen.

        Raises:
            HarveysegError: when the array is not of that form, or its scale is impossible.
        """
        if not isinstance(photo, np.ndarray):
            raise HarveysegError(
                f"array: is a {type(photo).__name__}, not a NumPy array. Make one with `np.asarray(photo, np.uint8)`."
            )
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] not in (3, 4) or not photo.size:
            raise HarveysegError(
                f"array: is {photo.dtype} {photo.shape}; uint8 (height, width, 3 or 4) is needed: red, green, blue and "
                "perhaps alpha, in 0..255."
            )
        opaque = photo[..., 3] if photo.shape[2] == 4 else None
        item = Input(Path("array"), "array", (photo.shape[0], photo.shape[1]), is_tiff=False)
        metres = None if gsd is None else gsd / 100
        with _parameters_named():
            scale = find_scale(item, self._ensemble.training, self._predictor.network_size, metres)
        warn_of_unknown_scales([item], [scale], self._ensemble.training)
        colours = photo[..., 2::-1]
        picture = PictureInMemory(colours, find_shown(colours, opaque, None, "array"))
        with explain_out_of_memory("classifying an array", "Cut it into smaller ones."):
            stripes = [stripe.classes for stripe in self._predictor.stripes(picture, scale.photo_size)]
        return np.asarray(self.classes.ids[np.concatenate(stripes)], np.uint8)


@contextmanager
def _parameters_named() -> Iterator[None]:
    """Name parameters in the messages that speak of the command's options."""
    try:
        yield
    except HarveysegError as error:
        message, *problems = (_OPTION.sub(_parameter, text) for text in (str(error), *error.problems))
        raise HarveysegError(message, problems) from None


def _parameter(option: re.Match[str]) -> str:
    return _PARAMETERS.get(option[1], option[1])
