"""One colour for each model, the same in MLflow, in DVC's charts and on the summary page."""

import colorsys
from collections.abc import Iterable
from hashlib import sha256

from harveyseg.record import ALL_EMPTY, ENSEMBLE

OF_MODELS = {
    "unet": "#2f6db3",
    "attention_unet": "#d9772b",
    "unetplusplus": "#3a8f5a",
    "mobilenet_v2": "#c23b4e",
    "efficientnet_b1": "#7d5bb0",
    "efficientnet_b2": "#8c6d3f",
    "efficientnet_b3": "#d16ba5",
    "unet_efficientnet_b3": "#2aa3b8",
    "unet_efficientnet_lite0": "#a8a13a",
    "deeplabv3plus_resnet101": "#e0a93b",
    ENSEMBLE: "#222222",
    ALL_EMPTY: "#9a9a9a",
}
"""Of the models that the presets name."""
_LIGHTNESS = (0.34, 0.46, 0.58)
"""Dark enough for white paper, light enough for a dark page."""
_SATURATION = 0.5


def model_colour(model: str) -> str:
    """The colour of a model, which depends on its name alone: not on the other models, nor on who trained first.

    Two models that no preset names may get colours that look alike, as no rule can prevent that knows one of them only.

    Args:
        model: its name in ``params.yaml``.

    Example:
        >>> model_colour("unet"), model_colour("mine")
        ('#2f6db3', '#94c95e')
    """
    if model in OF_MODELS:
        return OF_MODELS[model]
    high, low, shade = sha256(model.encode()).digest()[:3]
    lightness = _LIGHTNESS[shade % len(_LIGHTNESS)]
    channels = colorsys.hls_to_rgb((256 * high + low) / 65536, lightness, _SATURATION)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)


def model_colours(models: Iterable[str]) -> dict[str, str]:
    """:func:`model_colour` of each model."""
    return {model: model_colour(model) for model in models}
