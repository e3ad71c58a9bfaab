"""Stage ``download``: verify the photos and masks of ``data.source`` and put them into ``data/raw``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from harveyseg.settings import section
from harveyseg.sources import DataParams, gather, link_for_experiments
from harveyseg.stage import project_root, run


def main(raw: Path = Path("data/raw"), params: Path = Path("params.yaml")) -> None:
    """Gather the data into RAW: flat folders, manifest.csv and source.json."""
    settings = section(params, "data", DataParams)
    gather(settings, project_root(), raw)
    link_for_experiments(settings.path, project_root())


if __name__ == "__main__":
    run(main)
