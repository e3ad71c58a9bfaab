"""Stage ``evaluate``: predict with one trained model, score it, and add the scores to its MLflow run."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from harveyseg.arrays import Confusions
from harveyseg.config.settings import section
from harveyseg.data.cache import load_part
from harveyseg.data.split import fold_rows, read_folds
from harveyseg.evaluation.boundary import boundary_accuracies
from harveyseg.evaluation.figures import learning_curve, prediction_figure
from harveyseg.evaluation.metrics import prediction_grid, true_masks, write_evaluation
from harveyseg.inference.network_file import load_network
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.predictor import predict_maps
from harveyseg.inference.probabilities import count_confusions, read_probabilities, write_probabilities
from harveyseg.pipeline.stage import (
    CacheDir,
    FoldNumber,
    FoldsFile,
    Made,
    ModelName,
    ModelsDir,
    ParamsFile,
    PredictionsDir,
    run,
)
from harveyseg.project import project_root
from harveyseg.record import WEIGHTS_FILE, identify_evaluation, read_run
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.mirror import mirror
from harveyseg.tracking.outputs import RunOutputs
from harveyseg.training.checkpoint import Checkpoint
from harveyseg.training.history import read_history


def main(
    model: ModelName,
    fold: FoldNumber,
    params: ParamsFile = Path("params.yaml"),
    cache: CacheDir = Path("data/cache"),
    folds: FoldsFile = Path("data/splits/folds.csv"),
    models: ModelsDir = Path("data/models"),
    out: PredictionsDir = Path("data/predictions"),
) -> Made:
    """Predict the photos that the fold held out and the test photos; score those whose masks are known."""
    inference = section(params, "inference", InferenceParams)
    tracker = open_tracker(section(params, "tracking", TrackingParams))
    model_folder = models / f"{model}-{fold}"
    folder = out / f"{model}-{fold}"
    record = read_run(model_folder / "run.json")
    trained = load_network(model_folder / WEIGHTS_FILE)
    train = load_part(cache / "train")
    test = load_part(cache / "test")
    truth = true_masks(cache / "score")
    _, held_out = fold_rows(read_folds(folds), train.ids, fold)

    confusions: dict[str, Confusions] = {}
    stored: dict[str, npt.NDArray[np.uint8]] = {}
    for name, part, rows in (("val", train, held_out.tolist()), ("test", test, list(range(len(test.ids))))):
        maps = predict_maps(trained.network, part.images, rows, trained.mean, trained.std, inference)
        shape = (len(part.classes), *maps.size)
        write_probabilities(folder / f"{name}.npy", [part.ids[row] for row in rows], shape, maps.batches)
        _, stored[name] = read_probabilities(folder / f"{name}.npy")
        if name in truth:
            maps_of = stored[name].__getitem__
            confusions[name] = count_confusions(maps_of, truth[name], rows, len(part.classes), inference.threads)

    val_rows = held_out.tolist()
    unscored = train.classes.unscored
    boundary = boundary_accuracies(stored["val"].__getitem__, truth["val"], val_rows, unscored, inference.threads)
    boundary_entries = {f"val/{name}": accuracy for name, accuracy in boundary.items()}
    identity = identify_evaluation(record.uid, inference.deciding(), train.data_hash)
    results = write_evaluation(folder, record, confusions, train.classes, {**identity, **boundary_entries})

    grid = prediction_grid(train, val_rows, truth["val"], {"prediction": stored["val"].__getitem__}, photos=4)
    prediction_figure(grid, folder / "sheet.png", f"{record.name}: photos that it was not trained on")
    learning_curve(read_history(model_folder / "history.csv"), folder / "learning_curve.png", record.name)
    mirror(tracker, RunOutputs(record, model_folder, folder).state())
    # DVC has committed the training, or this stage would not run.
    Checkpoint(project_root() / ".checkpoints", record.stage_key).remove_unused(record.uid)
    scores = f"argmax score {results['val/argmax_score']:.4f} (all empty {results['val/all_empty_score']:.4f})"
    return Made(f"{model}-{fold}, {scores}", folder)


if __name__ == "__main__":
    run(main)
