"""A reader of ONNX files by the documented interface of Deepness 0.7, the QGIS plugin.

It is also a script, for the Python of an environment with the onnxruntime that Deepness pins, without harveyseg:
``python deepness.py MODEL TILES.npy OUT.npz``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


class Segmentor:
    """A model as the plugin's dialogue fills its fields from the file.

    Raises:
        ValueError: where the plugin refuses the file.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime  # an extra

        self.runtime = onnxruntime.__version__
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError("one input and one output are supported")
        self.input_name, self.input_shape, self.output_shape = inputs[0].name, inputs[0].shape, outputs[0].shape
        if len(self.output_shape) != 4 or self.output_shape[2] != self.output_shape[3]:
            raise ValueError(f"square outputs (B, C, H, W) are supported, not {self.output_shape}")
        self.classes = int(self.output_shape[-3])  # a name would be no number
        self.channels, self.side = int(self.input_shape[-3]), int(self.input_shape[-1])
        stored = self.session.get_modelmeta().custom_metadata_map
        self.metadata: dict[str, Any] = {key: json.loads(value) for key, value in stored.items()}
        self.model_type = str(self.metadata["model_type"]).capitalize()
        self.resolution = float(self.metadata["resolution"])
        self.tile_size = int(self.metadata["tile_size"])
        self.overlap = int(self.metadata["tiles_overlap"])
        self.threshold = float(self.metadata["seg_thresh"])
        self.small_segment = int(self.metadata["seg_small_segment"])
        names = sorted(self.metadata["class_names"].items(), key=lambda item: int(item[0]))
        if [int(number) for number, _ in names] != list(range(len(names))):
            raise ValueError("class names are not consecutive")
        self.class_names = [name for _, name in names]

    def probabilities(self, tiles: Any) -> Any:
        """From uint8 tiles (B, S, S, 3) to the model's answer, float32 (B, C, S, S)."""
        scaled = (tiles.astype(np.float32) / 255).transpose(0, 3, 1, 2)
        mean = np.array(self.metadata.get("standardization_mean", [0.0] * self.channels), np.float32)
        std = np.array(self.metadata.get("standardization_std", [1.0] * self.channels), np.float32)
        inputs = (scaled - mean[:, None, None]) / std[:, None, None]
        return self.session.run(None, {self.input_name: np.ascontiguousarray(inputs)})[0]

    def classify(self, tiles: Any) -> Any:
        """The class of each pixel, (B, S, S): what is below the threshold becomes 0, then the highest value wins."""
        answer = self.probabilities(tiles)
        answer[answer < self.threshold] = 0
        return answer.argmax(axis=1)


if __name__ == "__main__":
    segmentor = Segmentor(Path(sys.argv[1]))
    given = np.load(sys.argv[2])
    np.savez(sys.argv[3], probabilities=segmentor.probabilities(given), classes=segmentor.classify(given))
    print(segmentor.runtime)
