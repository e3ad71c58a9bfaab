"""A trained ensemble as one ONNX file, for programs that segment mosaics: Deepness in QGIS, GeoDeep in WebODM.

Such a program resizes a mosaic to a resolution that the file names, cuts it into square tiles, and gives each pixel the
class with the highest value in the file's answer. So everything between a tile and its probabilities is in the graph:
normalisation, the networks' own scale, softmax, enlargement, the weighted mean. Post-processing is not: its rule looks
at whole photos. Neither are test-time augmentation and the windows' weights.

``docs/predict.md`` says how much the maps of these programs differ from those of ``harveyseg predict``.
"""

import importlib.util
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from harveyseg.arrays import SIDE_MULTIPLE
from harveyseg.errors import HarveysegError
from harveyseg.files import atomic, refuse_foreign
from harveyseg.inference.network_file import TrainedNetwork
from harveyseg.inference.sizes import round_side
from harveyseg.models.network import Network
from harveyseg.prediction.trained_ensemble import TrainedEnsemble
from harveyseg.project import library_versions

_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
_SIGNATURE = "harveyseg"
"""In the metadata of each file."""
_OPSET = 18
_IR_VERSION = 9
"""Deepness pins onnxruntime 1.17.0, which reads no later version; torch writes 10."""
_MOST_BYTES = 2**31 - 2**20
"""Of the weights: a protobuf message, which an ONNX file is, holds at most 2 GB."""
_LARGEST_DIFFERENCE = 1e-3
"""Between probabilities by torch and by onnxruntime; rounding alone makes about 1e-6."""


class TileLayout(NamedTuple):
    """What a tile is."""

    side: int
    """Of a tile, in pixels."""
    pixel: float
    """Metres of a side of a pixel; pixels are square."""
    sizes: tuple[tuple[int, int], ...]
    """(height, width) in pixels to which a tile is shrunk for each network, so that things have the size it knows."""


@dataclass(frozen=True)
class OnnxFile:
    """What was written."""

    path: Path
    networks: int
    bytes: int
    layout: TileLayout
    difference: float
    """Largest difference between probabilities by torch and by onnxruntime, of a tile of noise."""

    def describe(self) -> str:
        """One line, such as ``flood.onnx: 2 networks, 60 MB; tiles of 128 x 128 pixels of 37.5 cm, 48 x 48 m``."""
        networks = "1 network" if self.networks == 1 else f"{self.networks} networks"
        side, pixel, _ = self.layout
        ground = side * pixel
        return (
            f"{self.path}: {networks}, {self.bytes / 1e6:.0f} MB; tiles of {side} x {side} pixels of "
            f"{100 * pixel:.4g} cm, {ground:.4g} x {ground:.4g} m; within {self.difference:.0e} of torch"
        )


def tile_layout(network_sizes: Sequence[tuple[int, int]], ground: tuple[float, float]) -> TileLayout:
    """Choose tiles with square pixels that networks can be given at the scale that they were trained at.

    Training resizes photos of 80 x 60 m to, say, 128 x 128 pixels, so a network's pixels need not be square. A tile has
    the finest side of the pixels of all networks, at least the shorter side of a photo's ground, and a size that
    changes the scale of things least when each network gets it in multiples of 32 pixels.

    >>> tile_layout([(128, 128)], (48.0, 64.0))
    TileLayout(side=128, pixel=0.375, sizes=((128, 96),))

    Args:
        network_sizes: (height, width) in pixels of the photos that each network was trained on.
        ground: (height, width) in metres of the ground that one of these shows.
    """
    pixels = [tuple(metres / side for metres, side in zip(ground, size, strict=True)) for size in network_sizes]
    finest = min(map(min, pixels))

    def exact_sizes(side: int) -> list[list[float]]:
        return [[side * finest / own for own in pixel] for pixel in pixels]

    def scale_error(side: int) -> float:
        errors = [abs(math.log(round_side(own) / own)) for size in exact_sizes(side) for own in size]
        return round(max(errors), 2)

    shortest = round_side(min(ground) / finest)
    side = min(range(shortest, 2 * shortest + 1, SIDE_MULTIPLE), key=scale_error)  # the smallest of the best
    sizes = tuple((round_side(height), round_side(width)) for height, width in exact_sizes(side))
    return TileLayout(side, finest, sizes)


def write_onnx(ensemble: TrainedEnsemble, path: Path) -> OnnxFile:
    """Write an ensemble as an ONNX file, after onnxruntime has found the same probabilities in it as torch.

    Its one input is float32 (batch, 3, S, S), RGB in 0..1, its output float32 (batch, C, S, S), probabilities.

    Args:
        ensemble: the networks; the graph holds the weighted mean of their probabilities, and ``inference.overlap`` is
            what readers are told to let tiles overlap by.
        path: the file, ``*.onnx``.

    Raises:
        HarveysegError: when a package is missing, the ground of the training photos is not known, a network cannot take
            the tiles, the file would be too large or wrong, or ``path`` is a file of someone else.
    """
    _require_packages()
    if path.suffix != ".onnx":
        raise HarveysegError(f"--onnx {path}: name a file that ends in .onnx.")
    refuse_foreign(path, _SIGNATURE)
    if ensemble.training.ground is None:
        raise HarveysegError(
            "harveyseg export: the ground that a training photo shows is not known here, so the file could not say at "
            "which resolution it works. Give it with --ground, or in data.ground of params.yaml."
        )
    _check_exportable(ensemble)
    layout = tile_layout([network.size for network in ensemble.networks], ensemble.training.ground)
    model = _TileModel(ensemble, layout).eval()
    _check_bytes(model, ensemble.name)
    tile = torch.rand(1, 3, layout.side, layout.side, generator=torch.Generator().manual_seed(0))
    expected = _probabilities(model, tile, ensemble.name, layout)
    content = _export(model, tile, ensemble.name, _metadata(ensemble, layout))
    difference = float(np.abs(_run(content, tile) - expected.numpy()).max())
    if not difference <= _LARGEST_DIFFERENCE:
        raise HarveysegError(
            f"{path}: not written: onnxruntime finds other probabilities in it than torch (by up to {difference:.2g}). "
            "Try other versions of onnx, onnxscript and onnxruntime, or another model with --model."
        )
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return OnnxFile(path, len(ensemble.networks), len(content), layout, difference)


class _Member(nn.Module):
    """From tiles to the probabilities of one network, at the size of the tiles."""

    mean: Tensor
    std: Tensor
    rows: Tensor | None
    columns: Tensor | None

    def __init__(self, trained: TrainedNetwork, size: tuple[int, int], side: int) -> None:
        super().__init__()
        self.network = trained.network
        self.side = side
        self.register_buffer("mean", torch.tensor(trained.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(trained.std).view(1, 3, 1, 1))
        self.register_buffer("rows", None if size[0] == side else area_weights(size[0], side))
        self.register_buffer("columns", None if size[1] == side else area_weights(size[1], side).T.contiguous())

    def forward(self, tiles: Tensor) -> Tensor:
        photos = (tiles - self.mean) / self.std
        # As products with matrices: an area average that every reader of ONNX computes alike.
        photos = photos if self.rows is None else self.rows @ photos
        photos = photos if self.columns is None else photos @ self.columns
        maps: Tensor = self.network(photos).softmax(1)
        if tuple(maps.shape[2:]) == (self.side, self.side):
            return maps
        return functional.interpolate(maps, (self.side, self.side), mode="bilinear", align_corners=False)


class _TileModel(nn.Module):
    """From tiles, float32 (B, 3, S, S) in 0..1, to the weighted mean of all networks' probabilities, (B, C, S, S)."""

    def __init__(self, ensemble: TrainedEnsemble, layout: TileLayout) -> None:
        super().__init__()
        members = zip(ensemble.networks, layout.sizes, strict=True)
        self.members = nn.ModuleList(_Member(network, size, layout.side) for network, size in members)
        self.weights = ensemble.weights

    def forward(self, tiles: Tensor) -> Tensor:
        total: Tensor = self.weights[0] * self.members[0](tiles)
        for weight, member in zip(self.weights[1:], list(self.members)[1:], strict=True):
            total = total + weight * member(tiles)
        return total


def area_weights(shrunk: int, side: int) -> Tensor:
    """The area average along one axis as a matrix, float32 (shrunk, side): each row sums to 1.

    >>> area_weights(2, 3).mul(3).tolist()
    [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]
    """
    edges = torch.arange(shrunk + 1, dtype=torch.float64) * side / shrunk
    pixels = torch.arange(side, dtype=torch.float64)
    covered = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (covered.clamp(min=0) * shrunk / side).float()


def _require_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise HarveysegError(
            f"harveyseg export: not installed: {', '.join(missing)}. Install the extra: pip install -e '.[onnx]'"
        )


def _check_exportable(ensemble: TrainedEnsemble) -> None:
    kinds = {
        trained.spec["network"]
        for trained in ensemble.networks
        if isinstance(trained.network, Network) and not trained.network.exportable
    }
    if kinds:
        raise HarveysegError(
            f"{ensemble.name}: has a network of the kind {', '.join(sorted(kinds))}, which finds objects one by one. "
            "What it computes depends on the photo, but the programs that read the file need one fixed graph. Choose "
            "another model with --model."
        )


def _check_bytes(model: nn.Module, name: str) -> None:
    size = sum(value.nbytes for value in model.state_dict().values())
    if size > _MOST_BYTES:
        raise HarveysegError(
            f"{name}: its weights are {size / 1e9:.1f} GB, but an ONNX file holds at most 2 GB. Choose one model with "
            "--model."
        )


@torch.inference_mode()
def _probabilities(model: nn.Module, tile: Tensor, name: str, layout: TileLayout) -> Tensor:
    try:
        probabilities: Tensor = model(tile)
    except Exception as error:  # libraries raise all kinds of errors for a size that they cannot take
        sizes = ", ".join(f"{height}x{width}" for height, width in dict.fromkeys(layout.sizes))
        raise HarveysegError(
            f"{name}: cannot take tiles of {sizes} pixels, which tiles on the ground become: {str(error).rstrip('.')}. "
            "Choose another model with --model."
        ) from error
    return probabilities


def _metadata(ensemble: TrainedEnsemble, layout: TileLayout) -> dict[str, Any]:
    """What the readers look up, then where the file comes from."""
    return {
        "model_type": "Segmentor",
        "class_names": {str(index): name for index, name in enumerate(ensemble.classes.names)},
        "resolution": round(100 * layout.pixel, 6),  # centimetres
        "tile_size": layout.side,  # the key that Deepness reads
        "tiles_size": layout.side,  # the key that its documentation names
        "tiles_overlap": round(100 * ensemble.inference.overlap),  # percent
        "seg_thresh": 0,
        "seg_small_segment": 0,
        "model": ensemble.name,
        "networks": ensemble.identity,
        "software": f"{_SIGNATURE} {library_versions()['harveyseg']}",
    }


def _export(model: nn.Module, tile: Tensor, name: str, metadata: dict[str, Any]) -> bytes:
    """The bytes of the ONNX file."""
    program = torch.onnx.export(
        model,
        (tile.repeat(2, 1, 1, 1),),  # a batch of one would be taken for a fixed size
        dynamo=True,  # the older exporter leaves the sizes of the output open, which Deepness needs
        opset_version=_OPSET,
        external_data=False,
        input_names=["tiles"],
        output_names=["probabilities"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    proto.ir_version = _IR_VERSION
    for key, value in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    return bytes(proto.SerializeToString())


def _run(content: bytes, tile: Tensor) -> Any:
    """Probabilities that onnxruntime computes, float32 (1, C, S, S)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"tiles": tile.numpy()})[0]
