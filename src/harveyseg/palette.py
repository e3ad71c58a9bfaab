"""One colour for each model, the same in MLflow, in DVC's charts and on the summary page."""

from collections.abc import Sequence

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
"""Of the models that the presets name; a list that lacks some of them does not change the others' colours."""

FREE = ("#5f6b7a", "#8fbf4d", "#1b3f6b", "#6b2737", *list(OF_MODELS.values())[:-2])
"""For all other models: the first of those that fewest of them have."""


def model_colours(models: Sequence[str]) -> dict[str, str]:
    """A colour for each model; they repeat where there are many.

    Args:
        models: in the order of ``params.yaml``, in which models that no preset names take the free colours.

    Example:
        >>> model_colours(["mine", "unet", "yours"])
        {'mine': '#5f6b7a', 'unet': '#2f6db3', 'yours': '#8fbf4d'}
    """
    colours: dict[str, str] = {}
    for model in models:
        taken = [*colours.values(), *(OF_MODELS[name] for name in models if name in OF_MODELS)]
        colours[model] = OF_MODELS.get(model) or min(FREE, key=taken.count)
    return colours
