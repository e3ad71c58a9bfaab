"""Stage ``train``: train one model with one fold held out, resuming if it was killed; logged to MLflow."""

from pathlib import Path

import harveyseg.pipeline.start  # noqa: F401 - before all that is slow to import
from harveyseg.config.lock import read_recorded
from harveyseg.config.settings import section
from harveyseg.pipeline.check import read_config
from harveyseg.pipeline.fold_training import FoldTraining
from harveyseg.pipeline.identity import explain_restart, kept_record
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
from harveyseg.tracking.changes import changes_of_experiment
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.mirror import close_abandoned, mirror, show_running
from harveyseg.tracking.outputs import RunOutputs, RunState
from harveyseg.tracking.preview import Previews


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
    prepared = FoldTraining.prepare(config, fold, cache, folds, project_root() / ".checkpoints")
    checkpoint, training, folder = prepared.checkpoint, prepared.training, out / f"{model}-{fold}"
    tracker = open_tracker(section(params, "tracking", TrackingParams))
    with checkpoint.owned():
        record = kept_record(checkpoint)
        if record is None:
            for line in close_abandoned(tracker, {prepared.key}):
                print(line, flush=True)
            record = prepared.new_record(Path.cwd())
            if restart := explain_restart(record, checkpoint, read_recorded(folder / "run.json")):
                print(restart, flush=True)
        if record.ended_ms is None:
            record.changed = changes_of_experiment(params, model)
        with show_running(tracker, record) as run_id:
            record.run_id = run_id
            checkpoint.save_record(record.model_dump())
            previews = Previews(tracker, run_id, prepared.part.classes)
            for epoch in training.run():
                mirror(tracker, RunState(record, "RUNNING", epoch.history))
                if previews.due:
                    previews.send(training.predict_held_out(photos=3), len(epoch.history))
            prepared.write(folder, record)
            mirror(tracker, RunOutputs(record, folder).state())
        checkpoint.finish(record.model_dump())
    return Made(f"{model}-{fold}, {training.result()}", folder)


if __name__ == "__main__":
    run(main)
