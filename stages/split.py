"""Stage ``split``: assign every training photo to the fold in which it is held out, and draw figures of the data."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from harveyseg.config.settings import section
from harveyseg.data.cache import load_part, read_photos
from harveyseg.data.figures import SampleParams, write_data_figures
from harveyseg.data.split import SplitParams, make_folds, summarise_folds
from harveyseg.files import atomic
from harveyseg.pipeline.stage import CacheDir, FiguresDir, FoldsFile, ParamsFile, run
from harveyseg.project import project_root


def main(
    params: ParamsFile = Path("params.yaml"),
    cache: CacheDir = Path("data/cache"),
    folds: FoldsFile = Path("data/splits/folds.csv"),
    figures: FiguresDir = Path("data/figures"),
) -> None:
    """Write FOLDS and FIGURES from the cached photos, and print the number of photos and the classes of each fold."""
    photos = read_photos(cache / "train")
    assigned = make_folds(photos, section(params, "split", SplitParams), project_root())
    with atomic(folds) as temporary:
        assigned.to_csv(temporary, index=False, lineterminator="\n")
    write_data_figures(
        figures, load_part(cache / "train"), read_photos(cache / "test"), section(params, "train", SampleParams)
    )
    rows = summarise_folds(assigned, photos)
    table = Table(*rows.columns, title="Folds")
    for row in rows.itertuples(index=False):
        table.add_row(*map(str, row))
    Console().print(table)


if __name__ == "__main__":
    run(main)
