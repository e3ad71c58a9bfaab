"""Stage ``postprocess``: a rule for what is handed in for each (image, class), chosen out of fold for each model."""

import sys
from pathlib import Path

from harveyseg.config.settings import listed_models, section
from harveyseg.data.cache import load_part
from harveyseg.data.split import read_folds
from harveyseg.ensemble.members import Weights, load_members, read_weights
from harveyseg.evaluation.figures import decision_figure
from harveyseg.evaluation.metrics import true_masks
from harveyseg.inference.params import InferenceParams
from harveyseg.pipeline.stage import (
    CacheDir,
    EnsembleDir,
    FoldsFile,
    ModelsDir,
    ParamsFile,
    PostprocessDir,
    PredictionsDir,
    run,
)
from harveyseg.postprocess.decision import PostprocessParams, choose, decision_metrics, gather, write_decision
from harveyseg.record import RunRecord, read_run
from harveyseg.tracking.client import TrackingParams, open_tracker


def main(
    params: ParamsFile = Path("params.yaml"),
    cache: CacheDir = Path("data/cache"),
    folds: FoldsFile = Path("data/splits/folds.csv"),
    models: ModelsDir = Path("data/models"),
    predictions: PredictionsDir = Path("data/predictions"),
    ensemble: EnsembleDir = Path("data/ensemble"),
    out: PostprocessDir = Path("data/postprocess"),
) -> None:
    """Choose and fit a rule for each model and the ensemble, say what it is worth on photos it has not seen, log it."""
    settings, threads = (
        section(params, "postprocess", PostprocessParams),
        section(params, "inference", InferenceParams).threads,
    )
    own, kept = listed_models(params)
    members = load_members(own, kept, models, predictions, ensemble / "added")
    truth, rows = true_masks(cache / "score"), members.rows(load_part(cache / "train").ids)
    photos = read_folds(folds).set_index("id").loc[members.ids]
    tracker = open_tracker(section(params, "tracking", TrackingParams))
    if settings.method != "argmax" and len(photos) > photos["group"].nunique() == 1:
        warning = "all photos are of one group: neighbours have a say in each other's decision, the estimate is rosy"
        print(f"warning: {warning}", file=sys.stderr)
    for name in (*own, "ensemble"):
        records: dict[int | None, RunRecord] = {None: read_run(ensemble / "run.json")}
        if name == "ensemble":
            weights = read_weights(ensemble / "weights.json")
        else:
            weights, records = Weights({name: 1.0}, {}), {fold: members.of[name, fold].record for fold in kept}
        # A photo is predicted with the weights that were chosen without its fold, as the test photos are.
        predict = members.predictor(weights.chosen, weights.without)
        evidence, test = gather(map(predict, range(len(rows))), truth["val"], rows, threads), None
        if "test" in truth:
            test = gather(members.test(weights.chosen), truth["test"], range(len(truth["test"])), threads)
        choice = choose(evidence, photos["group"].tolist(), settings.method)
        rule, figure = out / "rules" / f"{name}.json", out / "figures" / f"{name}.png"
        decision_figure(evidence.worth, evidence.present, choice.nested, figure, f"{name}: {choice.rule.name}")
        for record, metrics in write_decision(out, name, records, evidence, photos, choice, test):
            tracker.add_results(record, metrics, [rule, figure], "decision")
        scores = decision_metrics(evidence, choice, test)
        print(f"{name}: {choice.rule.name}, {scores['val/score']:.4f} ({scores['val/postprocess_gain']:+.4f})")


if __name__ == "__main__":
    run(main)
