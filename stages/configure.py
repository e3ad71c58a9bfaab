"""Stage ``configure``: check the settings of all models at once and write one file for each."""

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from harveyseg.configs import write_config
from harveyseg.configure import check_params
from harveyseg.stage import run


def main(
    params: Annotated[Path, typer.Option(help="Settings.")] = Path("params.yaml"),
    out: Annotated[Path, typer.Option(help="Folder for <model>.json.")] = Path("data/configs"),
) -> None:
    """Check the models, their training and the folds; nothing is read but params.yaml."""
    for config in check_params(params):
        write_config(out, config)
        print(f"{config.model}: {config.spec}")


if __name__ == "__main__":
    run(main)
