"""The MLflow model: this file is logged with the model folder as its code, and nothing is pickled.

MLflow runs it where a model is loaded or served. It needs the package harveyseg there. ``harveyseg predict`` never
runs it. A photo is a file's bytes, not an array of pixels, because files say how high the camera flew, and a request
stays as small as the photo.
"""

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from harveyseg.prediction.api import Predictor


class LoggedModel(PythonModel):
    """From photos to class maps, as ``harveyseg predict`` writes them."""

    def load_context(self, context: Any) -> None:
        """Read the model folder, which MLflow has downloaded."""
        self._predictor = Predictor.load(context.artifacts["harveyseg"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict photos.

        Args:
            context: MLflow's.
            model_input: ``photo``, the bytes of an image file, and perhaps ``gsd``, the centimetres of ground that a
                pixel shows, where the file does not say it.
            params: none are known.

        Returns:
            ``class_map``, the bytes of a PNG, or of a GeoTIFF for a TIFF: the class id of each pixel; 255 where nothing
            was seen.

        Raises:
            HarveysegError: when a photo cannot be read.
        """
        scales = model_input["gsd"] if "gsd" in model_input else [None] * len(model_input)
        maps = [
            self._class_map(photo, None if pd.isna(gsd) else float(gsd))
            for photo, gsd in zip(model_input["photo"], scales, strict=True)
        ]
        return pd.DataFrame({"class_map": maps})

    def _class_map(self, photo: bytes, gsd: float | None) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "photo"
            file.write_bytes(photo)
            return self._predictor.predict(file, Path(folder) / "maps", gsd=gsd).class_map_file.read_bytes()


set_model(LoggedModel())
