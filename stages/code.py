"""Stage ``code``: check all settings at once, and digest the code that each stage and model runs.

It runs first, so it also deletes the outputs of models and folds that are no longer listed.
"""

from pathlib import Path

import harveyseg.pipeline.start  # noqa: F401 - before all that is slow to import
from harveyseg.config.settings import Section, section
from harveyseg.data.class_lists import load_classes, store_classes
from harveyseg.data.sources import DataParams
from harveyseg.ensemble.weights import EnsembleParams
from harveyseg.errors import counted
from harveyseg.evaluation.submission import SubmitParams
from harveyseg.files import replacing, write_text
from harveyseg.inference.params import InferenceParams
from harveyseg.models import available
from harveyseg.pipeline.check import check_params, write_config, write_config_digests
from harveyseg.pipeline.code import PER_MODEL, code_digests, format_digests, stage_files
from harveyseg.pipeline.inputs import prepare_inputs
from harveyseg.pipeline.stage import CodeDir, Made, ModelsDir, ParamsFile, PredictionsDir, ScriptsDir, run
from harveyseg.pipeline.unlisted import delete_unlisted
from harveyseg.postprocess.select import PostprocessParams
from harveyseg.project import project_root
from harveyseg.tracking.client import TrackingParams

LATER: dict[str, type[Section]] = {
    "data": DataParams,
    "ensemble": EnsembleParams,
    "inference": InferenceParams,
    "postprocess": PostprocessParams,
    "submit": SubmitParams,
    "tracking": TrackingParams,
}
"""Sections that only later stages read: a mistake there is found now, not after hours of training."""


def main(
    params: ParamsFile = Path("params.yaml"),
    scripts: ScriptsDir = Path("stages"),
    out: CodeDir = Path("data/code"),
    models: ModelsDir = Path("data/models"),
    predictions: PredictionsDir = Path("data/predictions"),
) -> Made:
    """Write OUT/<stage>.txt, OUT/classes.json and, for each model, its settings and digests; no data is read."""
    configs = check_params(params, scripts, LATER)
    data = section(params, "data", DataParams)
    prepare_inputs(data, project_root(), Path.cwd())
    # A run of another experiment, which the ensemble predicts with, may be of any network.
    external = available() if section(params, "ensemble", EnsembleParams).runs else []
    for path in delete_unlisted([models, predictions]):
        print(f"{path}: deleted, as no model and fold in params.yaml writes it; DVC restores it when one does again")
    with replacing(out) as folder:
        for config in configs:
            write_config(folder / "train", config)
            evaluation = stage_files("evaluate", scripts, [config.spec["network"]])
            write_text(folder / "evaluate" / f"{config.model}.txt", format_digests(code_digests(evaluation)))
            print(f"{config.model}: {config.spec}")
        write_config_digests(folder, [config.model for config in configs])
        # DVC watches the user's file for this stage alone; `download` reads the masks by it.
        store_classes(folder, load_classes(data.classes, project_root()))
        for script in sorted(scripts.glob("*.py")):
            stage = script.stem.replace("_", "-")
            if stage not in PER_MODEL | {"code"}:
                files = stage_files(stage, scripts, external if stage == "ensemble" else [])
                write_text(folder / f"{stage}.txt", format_digests(code_digests(files)))
    return Made(f"checked settings of {counted(len(configs), 'model')}, digests of the code", out)


if __name__ == "__main__":
    run(main)
