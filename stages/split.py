"""Stage ``split``: assign every training photo to the fold in which it is held out, and show what the data are like."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from harveyseg.config.settings import section
from harveyseg.data.cache import load_part, read_photos
from harveyseg.data.figures import SampleParams, write_data_figures
from harveyseg.data.split import SplitParams, make_folds, summary
from harveyseg.files import atomic
from harveyseg.pipeline.stage import run
from harveyseg.project import project_root


def main(
    train: Path = Path("data/cache/train"),
    test: Path = Path("data/cache/test"),
    folds: Path = Path("data/splits/folds.csv"),
    figures: Path = Path("data/figures"),
    params: Path = Path("params.yaml"),
) -> None:
    """Write FOLDS and FIGURES from the cached photos in TRAIN and TEST, and print what each fold holds."""
    photos = read_photos(train)
    made = make_folds(photos, section(params, "split", SplitParams), project_root())
    with atomic(folds) as temporary:
        made.to_csv(temporary, index=False, lineterminator="\n")
    write_data_figures(figures, load_part(train), read_photos(test), section(params, "train", SampleParams))
    rows = summary(made, photos)
    table = Table(*rows.columns, title="Folds")
    for row in rows.itertuples(index=False):
        table.add_row(*map(str, row))
    Console().print(table)


if __name__ == "__main__":
    run(main)
