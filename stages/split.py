"""Stage ``split``: assign every training photo to the fold in which it is held out, and draw figures of the data."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

import harveyseg.pipeline.start  # noqa: F401 - before all that is slow to import
from harveyseg.config.settings import section
from harveyseg.data.cache import ResizeParams, load_part, read_part_classes, read_photos
from harveyseg.data.figures import SampleParams, write_data_figures
from harveyseg.data.overlap import overlaps_of_data
from harveyseg.data.split import (
    OVERLAPS_FILE,
    SplitParams,
    make_folds,
    summarise_folds,
    write_overlaps,
)
from harveyseg.errors import counted
from harveyseg.files import write_table
from harveyseg.pipeline.stage import CacheDir, FiguresDir, FoldsFile, Made, ParamsFile, RawDir, run
from harveyseg.project import project_root


def main(
    params: ParamsFile = Path("params.yaml"),
    raw: RawDir = Path("data/raw"),
    cache: CacheDir = Path("data/cache"),
    folds: FoldsFile = Path("data/splits/folds.csv"),
    figures: FiguresDir = Path("data/figures"),
) -> Made:
    """Write FOLDS, FIGURES and, where they are known, overlaps.csv next to FOLDS; print what each fold holds."""
    settings = section(params, "split", SplitParams)
    photos = read_photos(cache / "train")
    classes = read_part_classes(cache / "train")
    threads = section(params, "resize-cache", ResizeParams).threads
    required = settings.groups == "overlap"
    overlaps = overlaps_of_data(raw, threads, required) if required else None
    assigned = make_folds(photos, classes.unscored, settings, project_root(), overlaps)
    if not required:  # after the folds, so that a wrong setting is said before photos are compared
        overlaps = overlaps_of_data(raw, threads, required)
    if overlaps is not None:
        write_overlaps(folds.parent / OVERLAPS_FILE, overlaps)
    write_table(folds, assigned)
    samples = section(params, "train", SampleParams)
    write_data_figures(figures, load_part(cache / "train"), read_photos(cache / "test"), samples)
    rows = summarise_folds(assigned, photos, classes)
    table = Table(*rows.columns, title="Folds")
    for row in rows.itertuples(index=False):
        table.add_row(*map(str, row))
    Console().print(table)
    return Made(f"{counted(len(rows), 'fold')} of {counted(len(photos), 'photo')}", folds)


if __name__ == "__main__":
    run(main)
