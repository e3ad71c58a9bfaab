"""The command ``harveyseg``: what is done around the pipeline, which itself is ``dvc repro``."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import harveyseg.pipeline.start  # noqa: F401 - before all that is slow to import
from harveyseg.completion import (
    complete_experiment,
    complete_model,
    complete_preset,
    complete_study,
    complete_submission,
    complete_tta,
)
from harveyseg.errors import DEBUG, HarveysegError, report_errors
from harveyseg.logs import configure_logging

if TYPE_CHECKING:
    from harveyseg.tracking.outputs import RunOutputs

PARAMS = Path("params.yaml")
DATA = Path("data")
SUMMARY = Path("summary.html")
UPLOADS = Path("uploads.json")

_Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FOLDER|models:/...",
        autocompletion=complete_model,
        help="A model trained here, a model folder, the packaged harvey25, or one of MLflow's registry, "
        "models:/harveyseg@champion; the ensemble if not given, or harvey25 where nothing was ever trained.",
    ),
]
_Ground = Annotated[
    str | None,
    typer.Option(metavar="HEIGHTxWIDTH", help="Metres of ground that a training photo shows, instead of data.ground."),
]

_Address = Annotated[
    str,
    typer.Option(
        envvar="RAY_ADDRESS",
        metavar="HOST:PORT|auto|local",
        help="Ray's cluster; `local` starts Ray on this machine, for the time of the command.",
    ),
]

_START = "Start"
_RESULTS = "Results and comparison"
_MAPS = "Maps of new photos"
_MACHINES = "Many trainings at a time"
_COMPETITION = "The competition and the report"

_commands = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


_cluster = typer.Typer(no_args_is_help=True, help="All items of the matrix at once, on Ray (extra `ray`).")
_commands.add_typer(_cluster, name="cluster", rich_help_panel=_MACHINES)


@_commands.callback()
def _main(
    debug: Annotated[
        bool, typer.Option("--debug", envvar=DEBUG, help="Show the traceback of an error, also in the stages.")
    ] = False,
) -> None:
    """Flood maps from drone photographs: settings, tables, scores and predictions around the DVC pipeline."""
    if debug:
        os.environ[DEBUG] = "1"


@_commands.command(rich_help_panel=_START)
def init(folder: Annotated[Path, typer.Argument(help="A new or an empty folder.")]) -> None:
    """Make a new pipeline repository: dvc.yaml, params.yaml, the stages; git and DVC initialised."""
    from harveyseg.pipeline.new_repository import create_repository

    create_repository(folder)
    print(f"{folder}: a new pipeline repository, with settings for drawn photos. Next:")
    print(f"  cd {folder}")
    print("  git add -A && git commit -m start")
    print("  dvc repro")


@_commands.command(rich_help_panel=_START)
def inspect(
    folder: Annotated[Path, typer.Argument(help="Photos and masks, in subfolders of any names.")],
    out: Annotated[Path, typer.Option(help="Folder for classes.yaml and data.yaml.")] = Path(),
    every: Annotated[bool, typer.Option("--all", help="Read all masks and compare all photos.")] = False,
) -> None:
    """Say what photos and masks hold; write a list of classes and the section `data` to start from."""
    from harveyseg.inspection.inspect import inspect_folder, write_start

    inspection = inspect_folder(folder, every)
    print("\n".join([*inspection.lines, *write_start(inspection, out)]))


@_commands.command(rich_help_panel=_START)
def preset(
    name: Annotated[
        str, typer.Argument(help="demo, report, report-small, best, best-imagenet", autocompletion=complete_preset)
    ],
) -> None:
    """Write a preset into params.yaml; comments, `data` and `tracking` stay as they are."""
    from harveyseg.config.preset import apply_preset

    apply_preset(name, PARAMS)
    print(f"params.yaml: preset {name}. Run it with `dvc repro`.")


@_commands.command(rich_help_panel=_START)
def doctor() -> None:
    """Programs, memory, disk and GPU; what of them and the workspace will fail or be slow; exit with 1 if it fails."""
    from harveyseg.doctor import describe, examine
    from harveyseg.project import project_root

    root = project_root()
    findings = examine(root)
    for line in (*describe(root), *findings):
        print(line)
    if any(finding.fails for finding in findings):
        raise typer.Exit(1)
    print("Nothing here will fail.")


@_commands.command(rich_help_panel=_RESULTS)
def status() -> None:
    """What is trained and what is stale, which scores stand, what each experiment changed, what to do next."""
    import shutil

    from harveyseg.overview.status import fit, inspect_workspace, status_lines
    from harveyseg.project import project_root
    from harveyseg.summary.outdated import is_outdated

    root = project_root()
    lines = [*status_lines(inspect_workspace(root))]
    if is_outdated(root / SUMMARY, root / DATA):
        lines.append(f"summary:    {SUMMARY} shows other results than these; `harveyseg summary` writes it anew")
    for line in lines:
        print(fit(line, shutil.get_terminal_size().columns) if sys.stdout.isatty() else line)


@_commands.command(rich_help_panel=_RESULTS)
def summary(
    out: Annotated[Path, typer.Option(help="The HTML file.")] = SUMMARY,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EXP",
            help="An experiment or commit to set next to the workspace; may be repeated.",
            autocompletion=complete_experiment,
        ),
    ] = None,
) -> None:
    """One page of all results: scores, curves, classes, photos with their errors, costs; needs no network."""
    import webbrowser

    from harveyseg.pipeline.running import require_idle
    from harveyseg.project import project_root
    from harveyseg.summary.page import write_summary
    from harveyseg.tracking.outputs import list_workspace

    require_idle(project_root(), "run `harveyseg summary`")
    outputs = list_workspace(PARAMS, DATA)
    names = {output.record.uid: output.record.name for output in outputs}
    stale = [f"{names[uid]}: {text}" for uid, text in _contradictions(outputs).items()]
    written = write_summary(out, PARAMS, DATA, compare or (), stale)
    print(f"{written.path}: {written.size / 1e6:.1f} MB; the best model is {written.winner}")
    if show:
        webbrowser.open(written.path.resolve().as_uri())


@_commands.command(rich_help_panel=_RESULTS)
def table(
    every: Annotated[bool, typer.Option("--all", help="Every experiment in MLflow, not only the workspace.")] = False,
    wide: Annotated[bool, typer.Option("--wide", help="All columns and all folds.")] = False,
    study_name: Annotated[
        str | None,
        typer.Option(
            "--study",
            help="A study of the recipe in params.yaml: data/reports/study-<name>.md.",
            autocompletion=complete_study,
        ),
    ] = None,
) -> None:
    """Print the scores, made from MLflow alone; restore data/reports/comparison.csv and .md as DVC tracks them."""
    from harveyseg.config.lock import recorded_outputs
    from harveyseg.config.settings import section
    from harveyseg.tracking.client import TrackingParams, open_tracker
    from harveyseg.tracking.outputs import list_workspace
    from harveyseg.tracking.table import (
        all_runs_table,
        comparison_table,
        restore_comparison,
        short_table,
        table_markdown,
    )

    tracker = open_tracker(section(PARAMS, "tracking", TrackingParams), required=True)
    if study_name is not None:
        from harveyseg.reproduction.export import load_study_runs
        from harveyseg.reproduction.studies import read_recipe
        from harveyseg.reproduction.tables import write_study

        runs = load_study_runs(read_recipe(PARAMS), tracker, [study_name])
        print(write_study(study_name, runs, DATA / "reports"), end="")
        return
    if every:
        print(table_markdown(all_runs_table(tracker)), end="")
        return
    outputs = list_workspace(PARAMS, DATA)
    frame = comparison_table(tracker, outputs, _contradictions(outputs))
    print(table_markdown(frame) if wide else short_table(frame), end="")
    reports = DATA / "reports"
    tracked = recorded_outputs(Path("dvc.lock"))
    names = {path.name: md5 for name, md5 in tracked.items() if (path := Path(name)).parent == reports}
    if left := restore_comparison(frame, reports, names):
        print(
            f"{' and '.join(map(str, left))}: not written, since DVC tracks another table than this one. "
            "`dvc repro -f compare` replaces it.",
            file=sys.stderr,
        )


@_commands.command(rich_help_panel=_RESULTS)
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of MLflow's server.")] = 5000,
    host: Annotated[str, typer.Option(help="Where it listens; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = True,
) -> None:
    """MLflow's UI at the prepared views of all runs; with a team's server, where they are."""
    from harveyseg.config.settings import section
    from harveyseg.project import project_root
    from harveyseg.tracking.client import TrackingParams
    from harveyseg.tracking.ui import show_ui

    params = section(PARAMS, "tracking", TrackingParams)
    raise typer.Exit(show_ui(params, project_root(), host, port, open_browser))


@_commands.command(rich_help_panel=_RESULTS)
def champion(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_submission,
            help="A model, or ensemble; the one with the best score if not given.",
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Licence and attribution of the training photos, for the card.")
    ] = None,
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="Also from code or settings that are in no commit.")
    ] = False,
    allow_demo: Annotated[
        bool, typer.Option("--allow-demo", help="Also of drawn photos or of the preset demo.")
    ] = False,
) -> None:
    """Register the best model, with a model card, in MLflow as models:/harveyseg@champion."""
    from harveyseg.champion.publish import publish

    for line in publish(PARAMS, DATA, model, licence, allow_dirty, allow_demo):
        print(line)


@_commands.command(rich_help_panel=_RESULTS)
def check() -> None:
    """Exit with 1 if the table and the files of the stages differ, contradict params.yaml, or were changed since."""
    from harveyseg.tracking.outputs import list_workspace
    from harveyseg.tracking.table import verify_table

    outputs = list_workspace(PARAMS, DATA)
    _require_recorded(outputs)
    differences = verify_table(DATA / "reports" / "comparison.csv", outputs)
    contradictions = _contradictions(outputs)
    names = {output.record.uid: output.record.name for output in outputs}
    differences += [f"{names[uid]}: {text}" for uid, text in contradictions.items()]
    if contradictions:
        differences.append("These results are not of the settings in params.yaml: run `dvc repro`.")
    if differences:
        print("\n".join(differences), file=sys.stderr)
        raise typer.Exit(1)
    print("The table and the stages' files agree.")


@_commands.command(rich_help_panel=_RESULTS)
def sync() -> None:
    """Send MLflow what it lacks of the workspace's runs and of the scores in uploads.json."""
    from harveyseg.config.settings import section
    from harveyseg.kaggle.upload import kaggle_scores, read_uploads
    from harveyseg.tracking.baseline import baseline_state
    from harveyseg.tracking.client import TrackingParams, open_tracker
    from harveyseg.tracking.mirror import mirror_all
    from harveyseg.tracking.outputs import list_workspace, missing_runs

    outputs = list_workspace(PARAMS, DATA, finished=True) or list_workspace(PARAMS, DATA)  # which says what to do
    _require_recorded(outputs)
    tracker = open_tracker(section(PARAMS, "tracking", TrackingParams), required=True, restore=True)
    uploads = read_uploads(UPLOADS)
    states = [output.state(further_metrics=kaggle_scores(uploads, output.record)) for output in outputs]
    if (baseline := baseline_state(outputs)) is not None:
        states.append(baseline)
    lines = mirror_all(tracker, states)
    print("\n".join(lines) if lines else "MLflow has everything.")
    if missing := missing_runs(PARAMS, DATA):
        print(f"Not there yet: {', '.join(missing)}. `dvc repro` makes what is missing.", file=sys.stderr)


@_commands.command(rich_help_panel=_MAPS)
def predict(
    images: Annotated[list[str], typer.Argument(help="JPEG, PNG and TIFF files, folders, or patterns in quotes.")],
    out: Annotated[Path, typer.Option(help="Folder for class maps, overlays, polygons and areas.csv.")],
    model: _Model = None,
    tta: Annotated[
        str | None,
        typer.Option(
            metavar="none|flips|d4",
            help="inference.tta, instead of the model's own.",
            autocompletion=complete_tta,
        ),
    ] = None,
    argmax: Annotated[
        bool, typer.Option("--argmax", help="Give each pixel its most probable class, without post-processing.")
    ] = False,
    gsd: Annotated[
        float | None,
        typer.Option(min=0.01, help="Centimetres of ground that a pixel shows, where the files do not say it."),
    ] = None,
    ground: _Ground = None,
    bands: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Which bands of TIFF files are red, green and blue, from 1.")
    ] = None,
    value_range: Annotated[
        str | None,
        typer.Option("--range", metavar="LOW,HIGH|auto", help="Which values of TIFF files are black and white."),
    ] = None,
    nodata: Annotated[
        str | None, typer.Option(metavar="0|255|none", help="The colour of an undeclared frame; none: keep it.")
    ] = None,
    crs: Annotated[str | None, typer.Option(metavar="EPSG:N", help="For files with a grid but no system.")] = None,
    probabilities: Annotated[
        str | None, typer.Option(metavar="CLASS,...", help="Also write the probabilities of these classes.")
    ] = None,
    geojson: Annotated[bool, typer.Option("--geojson", help="Also write polygons as GeoJSON.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace predictions that were made in another way.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="Predict only part K of N, for N processes with the same --out."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option("--on", metavar="cluster", help="`cluster`: on all GPUs and cores of Ray's (extra `ray`)."),
    ] = None,
    address: Annotated[
        str,
        typer.Option(
            envvar="RAY_ADDRESS",
            metavar="HOST:PORT|auto|local",
            help="With --on cluster: Ray's cluster; `local` starts Ray on this machine, for the time of the command.",
        ),
    ] = "local",
) -> None:
    """Class maps of photos and mosaics, areas of the classes, and polygons of georeferenced mosaics."""
    from harveyseg.prediction.find_model import find_model
    from harveyseg.prediction.options import parse_options, parse_reading, parse_training_ground, parse_tta
    from harveyseg.prediction.predict import predict_images
    from harveyseg.prediction.shard import parse_shard

    # Before the networks are loaded, which takes a while.
    if engine not in (None, "cluster"):
        raise HarveysegError(f"--on {engine}: must be cluster.")
    if engine and shard:
        raise HarveysegError("--on cluster makes parts itself. Leave --shard out.")
    training_ground = None if ground is None else parse_training_ground(ground)
    reading = parse_reading(bands, value_range, nodata, crs)
    part = None if shard is None else parse_shard(shard)
    changes = {} if tta is None else {"tta": parse_tta(tta)}
    ensemble = find_model(PARAMS, DATA, model, argmax, training_ground)
    options = parse_options(ensemble.classes, reading, probabilities, geojson, gsd, overwrite, part)
    settings = ensemble.inference.model_copy(update=changes)
    if engine:
        from harveyseg.prediction.on_cluster import predict_on_cluster

        with _stopped_by_signals():
            lines, skipped, errors, _ = predict_on_cluster(images, ensemble, settings, out, options, address)
    else:
        outcome = predict_images(images, ensemble, settings, out, options)
        lines = [record.describe() for record in outcome.predicted]
        skipped, errors = outcome.skipped, list(map(str, outcome.errors))
    print("\n".join([*lines, f"{out}: {len(lines)} predicted, {skipped} were done before, {len(errors)} failed"]))
    if errors:
        raise typer.Exit(1)


@_commands.command(rich_help_panel=_MAPS)
def assess(
    maps: Annotated[list[Path], typer.Argument(help="GeoPackages that `predict` wrote, or their folder.")],
    buildings: Annotated[
        Path | None, typer.Option(help="Footprints in a vector file; the roofs on the map if not given.")
    ] = None,
    roads: Annotated[Path | None, typer.Option(help="Road lines in a vector file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace assessments that exist already.")] = False,
) -> None:
    """Which buildings stand in water and where roads are cut, with the networks' error rates."""
    from harveyseg.prediction.assess_maps import assess_maps

    for assessed in assess_maps(maps, buildings, roads, overwrite):
        print(f"{assessed.text}\n  {assessed.file}")


@_commands.command(rich_help_panel=_MAPS)
def export(
    onnx: Annotated[Path, typer.Option(help="An ONNX file for Deepness (QGIS) and GeoDeep (WebODM).")],
    model: _Model = None,
    ground: _Ground = None,
) -> None:
    """Write trained networks for other programs; docs/predict.md says how their maps differ from those of predict."""
    from harveyseg.prediction.find_model import find_model
    from harveyseg.prediction.onnx_file import write_onnx
    from harveyseg.prediction.options import parse_training_ground

    training_ground = None if ground is None else parse_training_ground(ground)
    ensemble = find_model(PARAMS, DATA, model, argmax=True, ground=training_ground)
    print(write_onnx(ensemble, onnx).describe())


@_commands.command(rich_help_panel=_MAPS)
def example(
    folder: Annotated[Path, typer.Argument(help="An empty folder, or a new one.")],
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws another town.")] = 0,
) -> None:
    """A drawn, georeferenced mosaic of a flooded town with footprints and roads, to try predict and assess on."""
    from harveyseg.prediction.example import write_example

    for file in write_example(folder, seed):
        print(file)


@_commands.command(rich_help_panel=_MACHINES)
def work(
    items: Annotated[list[str], typer.Argument(help="Stages, e.g. train@unet-0 evaluate@unet-0.", metavar="ITEM...")],
    pull: Annotated[
        bool, typer.Option("--pull", help="Take what they read from DVC's remote, and push their results there.")
    ] = False,
) -> None:
    """Run stages in a copy of the project; `dvc repro` then takes their results over. See docs/cluster.md."""
    from harveyseg.project import project_root
    from harveyseg.scaling.work import work as work_on

    try:
        status = work_on(items, project_root(), pull)
    except KeyboardInterrupt:
        status = 130
    raise typer.Exit(status)


@_cluster.command("run")
def cluster_run(
    address: _Address = "local",
    gpus: Annotated[
        float | None,
        typer.Option(min=0, help="GPUs of an item, e.g. 0.5 for two on one; by train.device if not given."),
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="How often an item begins again whose machine was lost.")] = 2,
    mixed_devices: Annotated[
        bool,
        typer.Option("--mixed-devices", help="Accept machines that compute on other devices or in other precision."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run where, and run nothing.")] = False,
    queue: Annotated[
        bool, typer.Option("--queue", help="Run what `dvc exp run --queue` has queued instead of the matrix.")
    ] = False,
    pull: Annotated[
        bool, typer.Option("--pull", help="The machines share no disk: bring inputs and results over DVC's remote.")
    ] = False,
) -> None:
    """Train and evaluate what is not up to date, on all GPUs and cores, then run `dvc repro`; see docs/cluster.md."""
    from harveyseg.project import project_root
    from harveyseg.scaling.cluster import ClusterOptions, describe_matrix, pending_items, run_matrix
    from harveyseg.scaling.queued import describe_queue, queued_experiments, run_queue

    if queue and pull:
        raise HarveysegError("--queue and --pull: experiments need the project's disk. Leave one of them out.")
    root = project_root()
    options = ClusterOptions(address, gpus, retries, mixed_devices, pull)
    items = {} if queue else pending_items(root)
    if dry_run:
        print("\n".join(describe_queue(root, options) if queue else describe_matrix(root, items, options)))
    if not queue and (queued := queued_experiments(root)):
        names = ", ".join(entry.name for entry in queued)
        print(f"{len(queued)} experiments are queued ({names}), which `harveyseg cluster run --queue` runs.")
    if dry_run:
        return
    with _stopped_by_signals():
        if queue:
            run_queue(root, options)
        else:
            run_matrix(root, items, options)


@_commands.command(rich_help_panel=_COMPETITION)
def score(
    submission: Annotated[Path, typer.Argument(help="A submission file.")],
    masks: Annotated[Path, typer.Option(help="Folder of the true masks, <id>.png.")],
    size: Annotated[
        str | None,
        typer.Option(
            metavar="PIXELS|HEIGHTxWIDTH|masks",
            help="The size for which the file was written, where no submission.json next to it says it.",
        ),
    ] = None,
) -> None:
    """The score of a submission file, for its recorded classes and size, or for those of params.yaml."""
    from harveyseg.config.settings import section
    from harveyseg.data.class_lists import load_classes
    from harveyseg.data.sources import DataParams
    from harveyseg.evaluation.score_file import score_file
    from harveyseg.project import project_root

    # Elsewhere, what a submission to the competition holds.
    here = PARAMS.exists()
    data = section(PARAMS, "data", DataParams) if here else DataParams(source="kaggle")
    setting = None if data.score_size is None else (data.score_size, data.score_size)
    name = "data.score_size in params.yaml" if here else "the competition's own script"
    scored = score_file(submission, masks, load_classes(data.classes, project_root()), setting, name, size)
    for metric, value in scored.metrics.items():
        print(f"{metric}: {value:.5f}")
    print(f"size of its masks: {scored.size[0]} x {scored.size[1]}, {scored.known_by}")


@_commands.command(rich_help_panel=_COMPETITION)
def upload(
    model: Annotated[
        str | None,
        typer.Option(help="Whose submission; the ensemble's if not given.", autocompletion=complete_submission),
    ] = None,
    message: Annotated[
        str | None, typer.Option(help="Shown at Kaggle. If not given: the model and its out-of-fold score.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the file and say what would be done, without a network.")
    ] = False,
) -> None:
    """Submit a file to Kaggle, once, wait for its score and log that to MLflow; see docs/kaggle.md."""
    from harveyseg.config.settings import section
    from harveyseg.data.sources import DataParams
    from harveyseg.kaggle.upload import prepare, submit
    from harveyseg.tracking.client import TrackingParams, open_tracker
    from harveyseg.tracking.mirror import mirror
    from harveyseg.tracking.outputs import RunState, locate_outputs

    tracking = section(PARAMS, "tracking", TrackingParams)  # before anything is sent
    file = prepare(section(PARAMS, "data", DataParams).kaggle.competition, DATA, UPLOADS, model, message)
    print(file.describe(), flush=True)
    if dry_run:
        return
    evaluations = [locate_outputs(record, DATA).evaluation for record in file.records]  # before anything is sent
    submitted = submit(file, UPLOADS)
    print(f"submission {submitted.ref}: {submitted.outcome}", flush=True)
    tracker = open_tracker(tracking)
    for record, evaluation in zip(file.records, evaluations, strict=True):
        mirror(tracker, RunState(record, metrics=submitted.metrics, evaluation=evaluation))


@_commands.command(rich_help_panel=_COMPETITION)
def study(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="As `--list` prints them.", show_default=False, autocompletion=complete_study),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Print the names, one per line.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant: train.seed, train.seed + 1, ...")] = 1,
    only: Annotated[
        list[str] | None, typer.Option(metavar="VARIANT", help="Only this variant, as the table names it; repeatable.")
    ] = None,
    done: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Runs that `results --export` wrote on another machine; their trials do not run again; repeatable.",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at a time, without --on cluster.")] = 1,
    engine: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="cluster", help="`cluster`: as many trials at a time as Ray's machines have room for."
        ),
    ] = None,
    address: _Address = "local",
) -> None:
    """Run the report's experiments with the recipe and data in params.yaml; print their tables."""
    from harveyseg.config.settings import section
    from harveyseg.project import project_root
    from harveyseg.reproduction.export import import_runs_of, load_study_runs, merge_study_runs
    from harveyseg.reproduction.runner import run_studies
    from harveyseg.reproduction.studies import read_recipe, read_studies
    from harveyseg.reproduction.tables import write_study
    from harveyseg.scaling.cluster import ClusterOptions
    from harveyseg.tracking.client import TrackingParams, open_tracker

    if listed:
        print("\n".join(read_studies()))
        return
    if not names:
        raise HarveysegError("harveyseg study NAME: which one? `harveyseg study --list` prints the names.")
    if engine not in (None, "cluster"):
        raise HarveysegError(f"--on {engine}: must be cluster.")
    if engine and jobs > 1:
        raise HarveysegError(
            "--jobs and --on cluster: the cluster runs as many as there is room for. Leave --jobs out."
        )
    recipe = read_recipe(PARAMS)
    exported = {str(path): import_runs_of(recipe, path) for path in done or ()}
    merge_study_runs(exported)  # what is wrong with them is said before anything runs
    tracker = open_tracker(section(PARAMS, "tracking", TrackingParams), required=True)
    with _stopped_by_signals():
        cluster = ClusterOptions(address) if engine else None
        run_studies(names, recipe, project_root(), tracker, seeds, jobs, cluster, only or (), exported)
    [runs] = merge_study_runs({"MLflow": load_study_runs(recipe, tracker, names), **exported})
    for name in names:
        print(write_study(name, runs, DATA / "reports"), flush=True)


@_commands.command(rich_help_panel=_COMPETITION)
def results(
    out: Annotated[Path, typer.Option(help="The file; its figures go to docs/ next to it.")] = Path("RESULTS.md"),
    runs: Annotated[
        list[Path] | None,
        typer.Option(
            help="Exported runs of the studies, of one photo size or several, from one machine or several; MLflow's, "
            "of params.yaml, if not given."
        ),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Also write the runs to this file (JSON Lines, or .jsonl.xz).")
    ] = None,
) -> None:
    """Write RESULTS.md: the verdict on each claim of the report, and the tables of its studies."""
    from harveyseg.reproduction.export import export_study_runs, import_study_runs, load_study_runs, merge_study_runs
    from harveyseg.reproduction.results import write_results
    from harveyseg.reproduction.studies import read_recipe

    if runs and export is not None:
        raise HarveysegError("--runs and --export: the runs are in files already. Leave one out.")
    if runs:
        studies = merge_study_runs({str(path): import_study_runs(path) for path in runs})
    else:
        from harveyseg.config.settings import section
        from harveyseg.tracking.client import TrackingParams, open_tracker

        tracker = open_tracker(section(PARAMS, "tracking", TrackingParams), required=True)
        studies = [load_study_runs(read_recipe(PARAMS), tracker)]
    print(write_results(studies, out, out.parent / "docs"), end="")
    if export is not None:
        export_study_runs(studies[0], export)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Around work on a cluster: after Ctrl-C, say that it can be continued, and exit with 130."""
    try:
        yield
    except KeyboardInterrupt:
        print("Stopped. The same command continues with what is missing.", file=sys.stderr)
        raise typer.Exit(130) from None


def _require_recorded(outputs: Sequence["RunOutputs"]) -> None:
    """Refuse runs whose files are not what the pipeline wrote."""
    from harveyseg.pipeline.recorded import require_recorded

    require_recorded((file for run in outputs for file in run.files()), PARAMS.parent)


def _contradictions(outputs: Sequence["RunOutputs"]) -> dict[str, str]:
    """By uid, how the workspace's runs differ from params.yaml."""
    from harveyseg.pipeline.contradictions import find_contradictions

    runs = [(output.record, output.known_parameters) for output in outputs]
    return find_contradictions(PARAMS, runs, DATA / "splits" / "folds.csv")


def app() -> None:
    """Run the command line; a ``HarveysegError`` is printed without a traceback (exit 1)."""
    configure_logging()
    with report_errors():
        _commands()
