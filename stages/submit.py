"""Stage ``submit``: write the submission of the ensemble and of every model, and a description of what made them."""

from collections.abc import Iterable
from pathlib import Path

import harveyseg.pipeline.start  # noqa: F401 - before all that is slow to import
from harveyseg.arrays import ProbabilityMaps
from harveyseg.config.settings import listed_models, section
from harveyseg.data.cache import load_part
from harveyseg.ensemble.members import load_fold_models
from harveyseg.ensemble.record import describe_mixture
from harveyseg.ensemble.weights import read_weights
from harveyseg.errors import counted
from harveyseg.evaluation.submission import SubmitParams, write_submission
from harveyseg.files import sha256, write_json
from harveyseg.inference.probabilities import read_probabilities
from harveyseg.pipeline.stage import (
    CacheDir,
    EnsembleDir,
    Made,
    ModelsDir,
    ParamsFile,
    PostprocessDir,
    PredictionsDir,
    SubmissionDir,
    run,
)
from harveyseg.postprocess.files import read_rule
from harveyseg.progress import Progress
from harveyseg.project import git_state
from harveyseg.record import read_run


def main(
    params: ParamsFile = Path("params.yaml"),
    cache: CacheDir = Path("data/cache"),
    models: ModelsDir = Path("data/models"),
    predictions: PredictionsDir = Path("data/predictions"),
    ensemble: EnsembleDir = Path("data/ensemble"),
    postprocess: PostprocessDir = Path("data/postprocess"),
    out: SubmissionDir = Path("data/submission"),
) -> Made:
    """Write submission.csv (the ensemble), one file for each model, and submission.json, which says what made each.

    Without test photos there is only submission.json, which then lists no file.
    """
    settings = section(params, "submit", SubmitParams)
    test_part = load_part(cache / "test")
    classes, size = test_part.classes, test_part.score_size
    names, held_out = listed_models(params)
    fold_models = load_fold_models(names, held_out, models, predictions, ensemble / "added")
    files: dict[str, dict[str, object]] = {}

    record = read_run(ensemble / "run.json")
    ids = fold_models.first.test_ids
    if not ids:
        print("no submission: the data have no test photos (docs/sources.md)")
    with Progress("writing masks", (1 + len(names)) * len(ids)) as progress:
        for source in ("ensemble", *names) if ids else ():
            maps: Iterable[ProbabilityMaps]
            if source == "ensemble":
                name, runs, weights = "submission.csv", [record], read_weights(ensemble / "weights.json").chosen
                _, maps = read_probabilities(ensemble / "test.npy")
                identity: dict[str, object] = {"uid": record.uid, "run_id": record.run_id}
            else:
                name, runs, weights = (
                    f"{source}.csv",
                    [fold_models[source, fold].record for fold in held_out],
                    {source: 1.0},
                )
                maps, identity = fold_models.test(weights), {}
            fitted = read_rule(postprocess / "rules" / f"{source}.json", runs)
            masks = map(fitted.submitted_masks, progress.each(maps))
            write_submission(out / name, ids, masks, classes, size, settings)
            mixture = describe_mixture(fold_models, weights)
            files[name] = {**mixture, **identity, **fitted.summary(), "sha256": sha256(out / name)}
    git = git_state(Path.cwd())
    content = {
        "classes": classes.model_dump(),
        "score_size": list(size),
        "data_source": record.data_source,
        "data_hash": record.data_hash,
        "split_hash": record.split_hash,
        "experiment": record.experiment,
        "git_commit": git.commit,
        "git_dirty": git.dirty,
        "files": files,
    }
    write_json(out / "submission.json", content)
    return Made(
        f"{counted(len(files), 'submission')} of {counted(len(ids), 'photo')} x {counted(classes.scored, 'class')}", out
    )


if __name__ == "__main__":
    run(main)
