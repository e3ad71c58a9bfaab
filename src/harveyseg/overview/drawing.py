"""The library that draws DVC's charts, as a file next to their data, so that the page needs no network."""

from pathlib import Path

from harveyseg.files import write_text

_VEGA_LITE = "5.21"
"""The version for which DVC's templates, and those in ``.dvc/plots``, are written: major version 5."""


def write_drawing_library(path: Path) -> None:
    """Write Vega, Vega-Lite and Vega-Embed as one script, which sets ``vegaEmbed``.

    DVC's own page loads them from a network; ``.dvc/plots/page.html``, which replaces it, loads this file.

    Args:
        path: e.g. ``data/metrics/vega.js``. It has 0.9 MB.
    """
    import vl_convert  # it takes 80 MB of memory

    library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", _VEGA_LITE)
    # A function around it: its helper names are not meant for the page, whose own scripts have variables.
    write_text(path, f"(() => {{\n{library}\n}})();\n")
