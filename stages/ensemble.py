"""Stage ``ensemble``: weight the models out of fold and average their test probabilities; an MLflow run of its own."""

import time
from pathlib import Path

import harveyseg.pipeline.start  # noqa: F401 - before all that is slow to import
from harveyseg.config.settings import listed_models, section
from harveyseg.data.cache import load_part
from harveyseg.data.split import read_folds
from harveyseg.ensemble.evaluation import evaluate_ensemble, write_ensemble_figures
from harveyseg.ensemble.external import add_external_models
from harveyseg.ensemble.members import load_fold_models
from harveyseg.ensemble.record import new_ensemble_record
from harveyseg.ensemble.weights import EnsembleParams, choose_weights, write_weights
from harveyseg.evaluation.metrics import true_masks
from harveyseg.inference.params import InferenceParams
from harveyseg.models import available
from harveyseg.pipeline.code import require_digested
from harveyseg.pipeline.stage import (
    CacheDir,
    CodeDir,
    EnsembleDir,
    FoldsFile,
    Made,
    ModelsDir,
    ParamsFile,
    PredictionsDir,
    RawDir,
    ScriptsDir,
    run,
)
from harveyseg.postprocess.select import PostprocessParams
from harveyseg.record import identify_evaluation, write_run
from harveyseg.tracking.changes import changes_of_experiment
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.mirror import close_abandoned, mirror, show_running
from harveyseg.tracking.outputs import RunOutputs


def main(
    params: ParamsFile = Path("params.yaml"),
    cache: CacheDir = Path("data/cache"),
    folds: FoldsFile = Path("data/splits/folds.csv"),
    models: ModelsDir = Path("data/models"),
    predictions: PredictionsDir = Path("data/predictions"),
    raw: RawDir = Path("data/raw"),
    scripts: ScriptsDir = Path("stages"),
    code: CodeDir = Path("data/code"),
    out: EnsembleDir = Path("data/ensemble"),
) -> Made:
    """Average the models with the weights that score best on photos that they were not trained on."""
    settings = section(params, "ensemble", EnsembleParams)
    postprocess = section(params, "postprocess", PostprocessParams)
    inference = section(params, "inference", InferenceParams)
    tracker = open_tracker(section(params, "tracking", TrackingParams))
    evaluated_by = require_digested(code / "ensemble.txt", "ensemble", scripts, available() if settings.runs else [])
    names, held_out = listed_models(params)
    train = load_part(cache / "train")
    truth = true_masks(cache / "score")
    split = read_folds(folds)
    groups = dict(zip(split["id"], split["group"], strict=True))

    workspace_models = load_fold_models(names, held_out, models, predictions)
    external = out / "added"
    add_external_models(settings.runs, tracker, workspace_models, train, truth["val"], raw, inference, external)
    fold_models = workspace_models
    if settings.runs:
        fold_models = load_fold_models(names, held_out, models, predictions, external)
    weights = choose_weights(fold_models, train, groups, settings, postprocess, inference.threads)
    record = new_ensemble_record(fold_models, weights, settings, Path.cwd())
    record.changed = changes_of_experiment(params)
    for line in close_abandoned(tracker, {record.stage_key}):
        print(line, flush=True)
    with show_running(tracker, record) as run_id:
        record.run_id = run_id
        write_weights(out / "weights.json", fold_models, weights)
        inferred = fold_models.inference(weights.models)
        identity = identify_evaluation(record.uid, inferred, train.data_hash, evaluated_by)
        results = evaluate_ensemble(out, record, fold_models, weights, train, truth, inference.threads, identity)
        write_ensemble_figures(out, results, fold_models, weights, train, truth["val"], inference.threads)
        record.ended_ms = round(time.time() * 1000)
        write_run(out / "run.json", record)
        mirror(tracker, RunOutputs(record, out, out).state())
    shares = ", ".join(f"{model} {weight:.2f}" for model, weight in weights.chosen.items() if weight)
    return Made(f"{shares}, argmax score {results['val/argmax_score']:.4f}", out)


if __name__ == "__main__":
    run(main)
