"""Stage ``code``: check the settings of all models at once, and digest the code that each stage and model runs."""

from pathlib import Path

from harveyseg.config.settings import section
from harveyseg.ensemble.weights import EnsembleParams
from harveyseg.models import available
from harveyseg.pipeline.check import check_params, write_config
from harveyseg.pipeline.code import PER_MODEL, code_digests, stage_files, write_digests
from harveyseg.pipeline.stage import CodeDir, ParamsFile, ScriptsDir, run


def main(
    params: ParamsFile = Path("params.yaml"),
    scripts: ScriptsDir = Path("stages"),
    out: CodeDir = Path("data/code"),
) -> None:
    """Write OUT/<stage>.txt, and OUT/train/<model>.json and OUT/evaluate/<model>.txt; no data is read."""
    for config in check_params(params, scripts):
        write_config(out / "train", config)
        evaluation = stage_files("evaluate", scripts, [config.spec["network"]])
        write_digests(out / "evaluate" / f"{config.model}.txt", code_digests(evaluation))
        print(f"{config.model}: {config.spec}")
    # A run of another experiment, which the ensemble predicts with, may be of any network.
    external = available() if section(params, "ensemble", EnsembleParams).runs else []
    for script in sorted(scripts.glob("*.py")):
        stage = script.stem.replace("_", "-")
        if stage not in PER_MODEL | {"code"}:
            files = stage_files(stage, scripts, external if stage == "ensemble" else [])
            write_digests(out / f"{stage}.txt", code_digests(files))


if __name__ == "__main__":
    run(main)
