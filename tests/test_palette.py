"""One colour for each model: fixed, readable, and the same in every process and list."""

import colorsys
import subprocess
import sys

import pytest

from harveyseg.config.preset import preset_names, read_preset
from harveyseg.palette import OF_MODELS, model_colour, model_colours
from harveyseg.record import ALL_EMPTY, ENSEMBLE

OWN = ["mine", "yours", "segnet", "fcn_resnet50", "unet_wide", "swin", "linknet", "fpn"]


def test_every_model_of_a_preset_has_a_colour_of_its_own() -> None:
    models = {model for preset in preset_names() for model in read_preset(preset)["models"]}
    assert models | {ENSEMBLE, ALL_EMPTY} == set(OF_MODELS)
    assert len(set(OF_MODELS.values())) == len(OF_MODELS)


def test_a_colour_depends_on_the_name_alone() -> None:
    """Not on order or neighbours, nor on the process, in which Python's own hashes of text differ."""
    colours = model_colours(OWN)
    assert model_colours(reversed([*OWN, "unet"])) == {**colours, "unet": OF_MODELS["unet"]}
    code = "import sys; from harveyseg.palette import model_colour; print(*map(model_colour, sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *OWN], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(colours.values())
    assert len(set(colours.values())) == len(OWN)


@pytest.mark.parametrize("model", OWN)
def test_a_colour_is_seen_on_white_and_on_black(model: str) -> None:
    red, green, blue = (int(model_colour(model)[start : start + 2], 16) / 255 for start in (1, 3, 5))
    _, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    assert 0.3 < lightness < 0.6
    assert saturation > 0.4
