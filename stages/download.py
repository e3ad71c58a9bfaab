"""Stage ``download``: verify the photos and masks of ``data.source`` and put them into ``data/raw``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from harveyseg.settings import section
from harveyseg.sources import DataParams, gather
from harveyseg.stage import project_root, run


def main(raw: Path = Path("data/raw"), params: Path = Path("params.yaml")) -> None:
    """Gather the data into RAW: flat folders, manifest.csv and source.json."""
    gather(section(params, "data", DataParams), project_root(), raw)


if __name__ == "__main__":
    run(main)
