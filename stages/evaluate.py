"""Stage ``evaluate``: what one trained model predicts, how good that is, and the same added to its MLflow run."""

from pathlib import Path

from harveyseg.config.settings import section
from harveyseg.data.cache import load_part
from harveyseg.data.split import fold_rows, read_folds
from harveyseg.evaluation.boundary import accuracies
from harveyseg.evaluation.figures import learning_curve, prediction_sheet
from harveyseg.evaluation.metrics import sheet_of, true_masks, write_evaluation
from harveyseg.inference.network_file import load_network
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.predictor import predict_maps
from harveyseg.inference.probabilities import count_confusions, read_probabilities, write_probabilities
from harveyseg.pipeline.stage import (
    CacheDir,
    FoldNumber,
    FoldsFile,
    ModelName,
    ModelsDir,
    ParamsFile,
    PredictionsDir,
    run,
)
from harveyseg.record import read_run
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.training.history import read_history


def main(
    model: ModelName,
    fold: FoldNumber,
    params: ParamsFile = Path("params.yaml"),
    cache: CacheDir = Path("data/cache"),
    folds: FoldsFile = Path("data/splits/folds.csv"),
    models: ModelsDir = Path("data/models"),
    out: PredictionsDir = Path("data/predictions"),
) -> None:
    """Predict the photos that the fold held out and the test photos; score those whose masks are known."""
    inference = section(params, "inference", InferenceParams)
    train, test = load_part(cache / "train"), load_part(cache / "test")
    record = read_run(models / f"{model}-{fold}" / "run.json")
    trained = load_network(models / f"{model}-{fold}" / "weights.safetensors")
    folder = out / f"{model}-{fold}"
    held_out = fold_rows(read_folds(folds), train.ids, fold)[1].tolist()
    truth, stored, confusions = true_masks(cache / "score"), {}, {}
    for name, part, rows in (("val", train, held_out), ("test", test, list(range(len(test.ids))))):
        maps = predict_maps(trained.network, part.images, rows, trained.mean, trained.std, inference)
        write_probabilities(folder / f"{name}.npy", [part.ids[row] for row in rows], maps.size, maps.batches)
        stored[name] = read_probabilities(folder / f"{name}.npy")[1]
        if name in truth:
            confusions[name] = count_confusions(stored[name].__getitem__, truth[name], rows, inference.threads)
    near = accuracies(stored["val"].__getitem__, truth["val"], held_out, inference.threads)
    results, files = write_evaluation(
        folder, record, confusions, {f"val/{name}": share for name, share in near.items()}
    )
    sheet = sheet_of(train, held_out, truth["val"], {"prediction": stored["val"].__getitem__}, photos=4)
    prediction_sheet(sheet, folder / "sheet.png", f"{record.name}: photos that it was not trained on")
    learning_curve(read_history(models / f"{model}-{fold}" / "history.csv"), folder / "learning_curve.png", record.name)
    files += [folder / "sheet.png", folder / "learning_curve.png"]
    open_tracker(section(params, "tracking", TrackingParams)).add_results(record, results, files)
    print(f"{model}-{fold}: score {results['val/argmax_score']:.4f} (all empty {results['val/all_empty_score']:.4f})")


if __name__ == "__main__":
    run(main)
