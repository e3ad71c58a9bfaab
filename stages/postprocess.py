"""Stage ``postprocess``: choose and fit a rule for each model and the ensemble, and estimate its score."""

from pathlib import Path

import harveyseg.pipeline.start  # noqa: F401 - before all that is slow to import
from harveyseg.config.settings import listed_models, section
from harveyseg.data.cache import load_part
from harveyseg.data.split import OVERLAPS_FILE, count_overlapping_photos, read_folds, read_overlaps
from harveyseg.ensemble.members import load_fold_models
from harveyseg.ensemble.weights import EnsembleWeights, read_weights
from harveyseg.errors import counted
from harveyseg.evaluation.metrics import true_masks
from harveyseg.inference.params import InferenceParams
from harveyseg.pipeline.code import require_digested
from harveyseg.pipeline.stage import (
    CacheDir,
    CodeDir,
    EnsembleDir,
    FoldsFile,
    Made,
    ModelsDir,
    ParamsFile,
    PostprocessDir,
    PredictionsDir,
    ScriptsDir,
    run,
)
from harveyseg.postprocess.figures import threshold_figure
from harveyseg.postprocess.files import write_rule
from harveyseg.postprocess.select import PostprocessParams, select_rule, warn_of_single_group
from harveyseg.postprocess.statistics import collect_statistics
from harveyseg.progress import Progress
from harveyseg.record import Value, identify_postprocessing, read_evaluation_id, read_run
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.mirror import mirror
from harveyseg.tracking.outputs import RunOutputs


def main(
    params: ParamsFile = Path("params.yaml"),
    cache: CacheDir = Path("data/cache"),
    folds: FoldsFile = Path("data/splits/folds.csv"),
    models: ModelsDir = Path("data/models"),
    predictions: PredictionsDir = Path("data/predictions"),
    ensemble: EnsembleDir = Path("data/ensemble"),
    scripts: ScriptsDir = Path("stages"),
    code: CodeDir = Path("data/code"),
    out: PostprocessDir = Path("data/postprocess"),
) -> Made:
    """Choose and fit a rule for each model and the ensemble, and log its score on photos that it was not fitted on."""
    settings = section(params, "postprocess", PostprocessParams)
    threads = section(params, "inference", InferenceParams).threads
    tracker = open_tracker(section(params, "tracking", TrackingParams))
    postprocessed_by = require_digested(code / "postprocess.txt", "postprocess", scripts)
    names, held_out = listed_models(params)
    fold_models = load_fold_models(names, held_out, models, predictions, ensemble / "added")
    truth = true_masks(cache / "score")
    train = load_part(cache / "train")
    rows = fold_models.rows(train.ids)
    split = read_folds(folds).set_index("id")
    photos = split.loc[fold_models.ids]
    overlaps = read_overlaps(folds.parent / OVERLAPS_FILE)
    fold_of = dict(zip(split.index, split["fold"], strict=True))
    overlapping = None if overlaps is None else count_overlapping_photos(overlaps, fold_of, held_out)
    groups = photos["group"].tolist()
    recorded: dict[str, Value] = {f"postprocess.{name}": value for name, value in settings.model_dump().items()}
    warn_of_single_group(groups, settings.method)

    lines = []
    with Progress("post-processing", (len(names) + 1) * (len(rows) + len(truth.get("test", ())))) as progress:
        for source in (*names, "ensemble"):
            outputs: dict[int | None, RunOutputs]
            if source == "ensemble":
                weights = read_weights(ensemble / "weights.json")
                outputs = {None: RunOutputs(read_run(ensemble / "run.json"), ensemble, ensemble, out)}
            else:
                weights = EnsembleWeights.of_single_model(source)
                folders = {fold: (models / f"{source}-{fold}", predictions / f"{source}-{fold}") for fold in held_out}
                outputs = {fold: RunOutputs(fold_models[source, fold].record, *folders[fold], out) for fold in held_out}
            # Weights that were chosen without a photo's fold predict the photo, as no test photo has a say in its
            # weights.
            predict = fold_models.predictor(weights.chosen, weights.without_fold)
            val = collect_statistics(
                progress.each(map(predict, range(len(rows)))), truth["val"], rows, train.classes, threads
            )
            test = None
            if "test" in truth:
                test_rows = range(len(truth["test"]))
                maps = progress.each(fold_models.test(weights.chosen))
                test = collect_statistics(maps, truth["test"], test_rows, train.classes, threads)
            selected = select_rule(val, groups, settings.method)

            figure = out / "figures" / f"{source}.png"
            threshold_figure(val, selected.nested_thresholds, figure, f"{source}: {selected.rule.name}")
            records = {fold: files.record for fold, files in outputs.items()}
            evaluations = {fold: read_evaluation_id(files.metrics) for fold, files in outputs.items()}
            identities = identify_postprocessing(evaluations, recorded, postprocessed_by)
            size = train.score_size
            scores = write_rule(out, source, records, val, photos, selected, size, test, identities, overlapping)
            for files in outputs.values():
                mirror(tracker, files.state())
            gain = scores["val/postprocess_gain"]
            lines.append(f"{source}: {selected.rule.name}, {scores['val/score']:.4f} ({gain:+.4f})")
    print("\n".join(lines))
    return Made(
        f"rules of {counted(len(names), 'model')} and the ensemble, whose score is {scores['val/score']:.4f},", out
    )


if __name__ == "__main__":
    run(main)
