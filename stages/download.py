"""Stage ``download``: verify the photos and masks of ``data.source`` and put them into ``data/raw``."""

from pathlib import Path

import harveyseg.pipeline.start  # noqa: F401 - before all that is slow to import
from harveyseg.config.settings import section
from harveyseg.data.manifest import read_manifest
from harveyseg.data.sources import DataParams, download_source
from harveyseg.data.sources.experiment_links import link_for_experiments
from harveyseg.pipeline.stage import Made, ParamsFile, RawDir, run
from harveyseg.project import project_root


def main(params: ParamsFile = Path("params.yaml"), raw: RawDir = Path("data/raw")) -> Made:
    """Put the verified data into RAW: flat folders, manifest.csv and source.json."""
    settings = section(params, "data", DataParams)
    download_source(settings, project_root(), raw)
    for path in (settings.path, settings.inputs):
        link_for_experiments(path, project_root())
    parts = read_manifest(raw / "manifest.csv")["part"]
    photos = f"{(parts == 'train').sum()} training and {(parts == 'test').sum()} test photos"
    return Made(f"{photos}, verified, of the source {settings.source}", raw)


if __name__ == "__main__":
    run(main)
