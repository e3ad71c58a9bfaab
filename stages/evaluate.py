"""Stage ``evaluate``: predict with one trained model, score it, and add the scores to its MLflow run."""

from pathlib import Path

import harveyseg.pipeline.start  # noqa: F401 - before all that is slow to import
from harveyseg.config.settings import section
from harveyseg.data.cache import load_part
from harveyseg.data.split import fold_rows, read_folds
from harveyseg.evaluation.metrics import true_masks
from harveyseg.evaluation.network import evaluate_network
from harveyseg.inference.params import InferenceParams
from harveyseg.pipeline.code import require_digested
from harveyseg.pipeline.stage import (
    CacheDir,
    CodeDir,
    FoldNumber,
    FoldsFile,
    Made,
    ModelName,
    ModelsDir,
    ParamsFile,
    PredictionsDir,
    ScriptsDir,
    run,
)
from harveyseg.project import project_root
from harveyseg.record import read_run
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.mirror import mirror
from harveyseg.tracking.outputs import RunOutputs
from harveyseg.training.checkpoint import Checkpoint


def main(
    model: ModelName,
    fold: FoldNumber,
    params: ParamsFile = Path("params.yaml"),
    cache: CacheDir = Path("data/cache"),
    folds: FoldsFile = Path("data/splits/folds.csv"),
    models: ModelsDir = Path("data/models"),
    scripts: ScriptsDir = Path("stages"),
    code: CodeDir = Path("data/code"),
    out: PredictionsDir = Path("data/predictions"),
) -> Made:
    """Predict the photos that the fold held out and the test photos; score those whose masks are known."""
    inference = section(params, "inference", InferenceParams)
    tracker = open_tracker(section(params, "tracking", TrackingParams))
    model_folder = models / f"{model}-{fold}"
    folder = out / f"{model}-{fold}"
    record = read_run(model_folder / "run.json")
    network = str(record.parameters["model.network"])
    evaluated_by = require_digested(code / "evaluate" / f"{model}.txt", "evaluate", scripts, [network])
    train = load_part(cache / "train")
    _, held_out = fold_rows(read_folds(folds), train.ids, fold)
    test, truth = load_part(cache / "test"), true_masks(cache / "score")
    results = evaluate_network(folder, model_folder, train, test, truth, held_out, inference, evaluated_by)
    mirror(tracker, RunOutputs(record, model_folder, folder).state())
    # DVC has committed the training, or this stage would not run.
    Checkpoint(project_root() / ".checkpoints", record.stage_key).remove_unused(record.uid)
    scores = f"argmax score {results['val/argmax_score']:.4f} (all empty {results['val/all_empty_score']:.4f})"
    return Made(f"{model}-{fold}, {scores}", folder)


if __name__ == "__main__":
    run(main)
