"""Stage ``metrics``: collect what DVC shows of all models: one file of scores, and tables for a handful of charts."""

from pathlib import Path
from typing import Annotated

import typer

import harveyseg.pipeline.start  # noqa: F401 - before all that is slow to import
from harveyseg.config.settings import listed_models
from harveyseg.files import replacing
from harveyseg.overview.collect import PipelineFiles, write_overview
from harveyseg.overview.drawing import write_drawing_library
from harveyseg.pipeline.stage import EnsembleDir, Made, ModelsDir, ParamsFile, PostprocessDir, run


def main(
    params: ParamsFile = Path("params.yaml"),
    models: ModelsDir = Path("data/models"),
    ensemble: EnsembleDir = Path("data/ensemble"),
    postprocess: PostprocessDir = Path("data/postprocess"),
    out: Annotated[Path, typer.Option(help="Folder of the scores and tables that DVC shows.")] = Path("data/metrics"),
) -> Made:
    """Write OUT/scores.json, the only file of metrics for DVC, and the tables and the drawing library of its charts."""
    names, folds = listed_models(params)
    with replacing(out) as folder:
        scores = write_overview(folder, PipelineFiles(names, folds, models, ensemble, postprocess / "metrics"))
        write_drawing_library(folder / "vega.js")
    return Made(", ".join(f"{name} {score:.4f}" for name, score in scores.items()), out)


if __name__ == "__main__":
    run(main)
