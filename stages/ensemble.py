"""Stage ``ensemble``: weight the models out of fold, average their test probabilities, log it as a run of its own."""

import time
from pathlib import Path

from harveyseg.config.settings import listed_models, section
from harveyseg.data.cache import load_part
from harveyseg.data.split import read_folds
from harveyseg.ensemble.diversity import compare_models, mixture_scores, write_diversity
from harveyseg.ensemble.external import add_runs
from harveyseg.ensemble.members import EnsembleParams, choose_weights, load_members, new_record, write_weights
from harveyseg.evaluation.figures import overview, prediction_sheet
from harveyseg.evaluation.metrics import nested_entry, sheet_of, true_masks, write_evaluation
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.probabilities import count_confusions, read_probabilities, write_probabilities
from harveyseg.pipeline.stage import (
    CacheDir,
    EnsembleDir,
    FoldsFile,
    ModelsDir,
    ParamsFile,
    PredictionsDir,
    RawDir,
    run,
)
from harveyseg.postprocess.decision import PostprocessParams
from harveyseg.record import write_run
from harveyseg.tracking.client import TrackingParams, open_tracker


def main(
    params: ParamsFile = Path("params.yaml"),
    cache: CacheDir = Path("data/cache"),
    folds: FoldsFile = Path("data/splits/folds.csv"),
    models: ModelsDir = Path("data/models"),
    predictions: PredictionsDir = Path("data/predictions"),
    raw: RawDir = Path("data/raw"),
    out: EnsembleDir = Path("data/ensemble"),
) -> None:
    """Average the models with the weights that score best on photos that they were not trained on."""
    settings, inference = section(params, "ensemble", EnsembleParams), section(params, "inference", InferenceParams)
    train, truth, threads = load_part(cache / "train"), true_masks(cache / "score"), inference.threads
    tracker = open_tracker(section(params, "tracking", TrackingParams))
    own = load_members(*listed_models(params), models, predictions)
    add_runs(settings.runs, tracker, own, train, truth["val"], raw, inference, out / "added")
    members = load_members(*listed_models(params), models, predictions, out / "added")
    split = read_folds(folds)
    groups = dict(zip(split["id"], split["group"], strict=True))
    weights = choose_weights(
        members, train, groups, settings, section(params, "postprocess", PostprocessParams), threads
    )
    record = new_record(members, weights, settings, Path.cwd())
    tracker.close_abandoned(record.stage_key)
    with tracker.run(record) as tracked:
        record.run_id = tracked.id
        averaged = (maps[None] for maps in members.test(weights.chosen))
        size = members.test_size(weights.chosen)
        write_probabilities(out / "test.npy", members.first.test_ids, size, averaged)
        rows, ensemble, nested = members.rows(train.ids), members.predictor(weights.chosen), None
        confusions = {"val": count_confusions(ensemble, truth["val"], rows, threads)}
        if "test" in truth:
            test = read_probabilities(out / "test.npy")[1]
            confusions["test"] = count_confusions(test.__getitem__, truth["test"], range(len(test)), threads)
        if weights.without:
            without = members.predictor(weights.chosen, weights.without)
            nested = count_confusions(without, truth["val"], rows, threads)
        results, files = write_evaluation(out, record, confusions, nested_entry(nested))
        write_weights(out / "weights.json", members, weights)
        title = "Photos that the models were not trained on"
        sheet = sheet_of(train, rows, truth["val"], {"ensemble": ensemble}, photos=4)
        prediction_sheet(sheet, out / "sheet.png", title)
        columns = {model: members.predictor({model: 1.0}) for model in members.models} | {"ensemble": ensemble}
        scores = {model: members.mean_score(model) for model in members.models}
        bars = scores | {"ensemble": results.get("val/nested_argmax_score", results["val/argmax_score"])}
        sheet = sheet_of(train, rows, truth["val"], columns, photos=3)
        overview(sheet, bars, results["val/all_empty_score"], out / "overview.png", title)
        equal = members.predictor(dict.fromkeys(members.models, 1 / len(members.models)))
        scores |= mixture_scores(count_confusions(equal, truth["val"], rows, threads), results)
        files += write_diversity(out, compare_models(members, train, threads), scores)
        tracked.log_metrics(results)
        files += [out / name for name in ("weights.json", "sheet.png", "overview.png")]
        tracked.log_artifacts(files, "evaluation")
        record.ended_ms = round(time.time() * 1000)
        write_run(out / "run.json", record)
    print("ensemble: " + ", ".join(f"{model} {weight:.2f}" for model, weight in weights.chosen.items()))


if __name__ == "__main__":
    run(main)
