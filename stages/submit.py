"""Stage ``submit``: the submission of the ensemble and of every model, and what made them."""

from pathlib import Path
from typing import Annotated

import typer

from harveyseg.config.settings import section
from harveyseg.ensemble.members import describe_members, listed, load_members, read_weights
from harveyseg.evaluation.submission import SubmitParams, write_submission
from harveyseg.files import sha256, write_json
from harveyseg.inference.probabilities import read_probabilities
from harveyseg.pipeline.stage import run
from harveyseg.postprocess.decision import read_decision
from harveyseg.project import git_state
from harveyseg.record import read_run


def main(
    params: Annotated[Path, typer.Option(help="Settings; `models` and `folds` say what is submitted.")] = Path(
        "params.yaml"
    ),
    models: Annotated[Path, typer.Option(help="Folder of the trained models.")] = Path("data/models"),
    predictions: Annotated[Path, typer.Option(help="Folder of their predictions.")] = Path("data/predictions"),
    ensemble: Annotated[Path, typer.Option(help="Folder of the ensemble.")] = Path("data/ensemble"),
    decisions: Annotated[Path, typer.Option(help="Folder of the decisions' rules.")] = Path("data/postprocess/rules"),
    out: Annotated[Path, typer.Option(help="Folder of the submissions.")] = Path("data/submission"),
) -> None:
    """Write submission.csv (the ensemble), one file per model, and submission.json, which says what made each."""
    settings, (own, folds) = section(params, "submit", SubmitParams), listed(params)
    members, record = load_members(own, folds, models, predictions, ensemble / "added"), read_run(ensemble / "run.json")
    ids, averaged = read_probabilities(ensemble / "test.npy")
    decision = read_decision(decisions / "ensemble.json", [record])
    about = describe_members(members, read_weights(ensemble / "weights.json").chosen)
    made = {"submission.csv": about | {"uid": record.uid, "run_id": record.run_id, **decision.summary()}}
    write_submission(out / "submission.csv", ids, map(decision.handed_in, averaged), settings)
    for model in own:
        runs = [members.of[model, fold].record for fold in folds]
        decision = read_decision(decisions / f"{model}.json", runs)
        made[f"{model}.csv"] = describe_members(members, {model: 1.0}) | decision.summary()
        write_submission(out / f"{model}.csv", ids, map(decision.handed_in, members.test({model: 1.0})), settings)
    for name, about in made.items():
        about["sha256"] = sha256(out / name)
        print(f"{out / name}: {len(ids)} images x 24 classes")
    git = git_state(Path.cwd())
    shared = {key: getattr(record, key) for key in ("data_source", "data_hash", "split_hash", "experiment")}
    write_json(out / "submission.json", {**shared, "git_commit": git.commit, "git_dirty": git.dirty, "files": made})


if __name__ == "__main__":
    run(main)
