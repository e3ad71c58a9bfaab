"""Stage ``submit``: the submission of the ensemble and of every model, and what made them."""

from pathlib import Path

from harveyseg.config.settings import listed_models, section
from harveyseg.ensemble.members import describe_members, load_members, read_weights
from harveyseg.evaluation.submission import SubmitParams, write_submission
from harveyseg.files import sha256, write_json
from harveyseg.inference.probabilities import read_probabilities
from harveyseg.pipeline.stage import (
    EnsembleDir,
    ModelsDir,
    ParamsFile,
    PostprocessDir,
    PredictionsDir,
    SubmissionDir,
    run,
)
from harveyseg.postprocess.decision import read_decision
from harveyseg.project import git_state
from harveyseg.record import read_run


def main(
    params: ParamsFile = Path("params.yaml"),
    models: ModelsDir = Path("data/models"),
    predictions: PredictionsDir = Path("data/predictions"),
    ensemble: EnsembleDir = Path("data/ensemble"),
    postprocess: PostprocessDir = Path("data/postprocess"),
    out: SubmissionDir = Path("data/submission"),
) -> None:
    """Write submission.csv (the ensemble), one file per model, and submission.json, which says what made each."""
    settings, (own, folds) = section(params, "submit", SubmitParams), listed_models(params)
    members, record = load_members(own, folds, models, predictions, ensemble / "added"), read_run(ensemble / "run.json")
    ids, averaged = read_probabilities(ensemble / "test.npy")
    decision = read_decision(postprocess / "rules" / "ensemble.json", [record])
    about = describe_members(members, read_weights(ensemble / "weights.json").chosen)
    made = {"submission.csv": about | {"uid": record.uid, "run_id": record.run_id, **decision.summary()}}
    write_submission(out / "submission.csv", ids, map(decision.handed_in, averaged), settings)
    for model in own:
        runs = [members.of[model, fold].record for fold in folds]
        decision = read_decision(postprocess / "rules" / f"{model}.json", runs)
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
