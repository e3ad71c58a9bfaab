"""Stage ``train``: train one model with one fold held out, resuming if it was killed; logged to MLflow."""

import time
from pathlib import Path

from harveyseg.config.lock import read_recorded
from harveyseg.config.settings import section
from harveyseg.data.cache import load_part
from harveyseg.data.split import fold_rows, read_folds, split_hash
from harveyseg.device import resolve_device, resolve_precision
from harveyseg.inference.network_file import save_network
from harveyseg.pipeline.check import read_config
from harveyseg.pipeline.identity import explain_restart, kept_record, new_record, stage_key
from harveyseg.pipeline.stage import (
    CacheDir,
    CodeDir,
    FoldNumber,
    FoldsFile,
    Made,
    ModelName,
    ModelsDir,
    ParamsFile,
    ScriptsDir,
    run,
)
from harveyseg.project import project_root
from harveyseg.record import WEIGHTS_FILE, write_run
from harveyseg.tracking.changes import changes_of_experiment
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.mirror import close_abandoned, mirror, show_running
from harveyseg.tracking.outputs import RunOutputs, RunState
from harveyseg.tracking.preview import Previews
from harveyseg.training.checkpoint import Checkpoint
from harveyseg.training.history import write_history
from harveyseg.training.trainer import Training


def main(
    model: ModelName,
    fold: FoldNumber,
    params: ParamsFile = Path("params.yaml"),
    scripts: ScriptsDir = Path("stages"),
    code: CodeDir = Path("data/code"),
    cache: CacheDir = Path("data/cache"),
    folds: FoldsFile = Path("data/splits/folds.csv"),
    out: ModelsDir = Path("data/models"),
) -> Made:
    """Train one model on all folds but one, and write the weights that ``train.validation.keep`` names."""
    config = read_config(code / "train" / f"{model}.json")
    config.require_unchanged(scripts)
    part = load_part(cache / "train")
    split = split_hash(folds)
    unlabelled = None if config.train.self_training is None else load_part(cache / "test")
    device = resolve_device(config.train.device)
    precision = resolve_precision(config.train.precision, device)
    key = stage_key(config, cache / "train", part.classes, split, fold, cache / "test", device, precision)
    checkpoint = Checkpoint(project_root() / ".checkpoints", key)
    rows = fold_rows(read_folds(folds), part.ids, fold)
    training = Training(config.spec, config.train, part, *rows, checkpoint=checkpoint, unlabelled=unlabelled)
    tracker = open_tracker(section(params, "tracking", TrackingParams))
    with checkpoint.owned():
        record = kept_record(checkpoint)
        if record is None:
            for line in close_abandoned(tracker, {key}):
                print(line, flush=True)
            record = new_record(config, fold, part, split, key, device, precision, Path.cwd())
            written = read_recorded(out / f"{model}-{fold}" / "run.json")
            if restart := explain_restart(record, checkpoint, written):
                print(restart, flush=True)
        if record.ended_ms is None:
            record.changed = changes_of_experiment(params, model)
        with show_running(tracker, record) as run_id:
            record.run_id = run_id
            checkpoint.save_record(record.model_dump())
            previews = Previews(tracker, run_id, part.classes)
            for epoch in training.run():
                mirror(tracker, RunState(record, "RUNNING", epoch.history))
                if previews.due:
                    previews.send(training.predict_held_out(photos=3), len(epoch.history))
            result = training.result()
            if record.ended_ms is None:
                record.results = result.results
                record.ended_ms = round(time.time() * 1000)
            folder = out / f"{model}-{fold}"
            description = (config.spec, result.mean, result.std, part.size, part.classes)
            save_network(folder / WEIGHTS_FILE, result.state, *description)
            write_history(folder / "history.csv", result.history)
            write_run(folder / "run.json", record)
            mirror(tracker, RunOutputs(record, folder).state())
        checkpoint.finish(record.model_dump())
    return Made(f"{model}-{fold}, {result}", folder)


if __name__ == "__main__":
    run(main)
