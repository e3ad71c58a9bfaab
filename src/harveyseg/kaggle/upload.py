"""Submitting a file to Kaggle once: the checks before, the wait for the score, and the record of it.

A submission's description names the file's hash, so that Kaggle's own list tells whether a file was submitted, by
whomever and whatever broke off. ``uploads.json`` in the project's root records the scores and the runs that they belong
to; no stage of the pipeline reads or writes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from harveyseg.data.class_lists import parse_classes
from harveyseg.data.manifest import read_manifest
from harveyseg.data.sources.kaggle_client import BrokenOffError, Competition, KaggleSubmission, require_client
from harveyseg.errors import HarveysegError, counted, raise_problems
from harveyseg.evaluation.submission import read_submission
from harveyseg.files import locked, read_json, sha256, write_json
from harveyseg.record import ENSEMBLE, RunRecord, read_run

WAIT_SECONDS = 900.0
"""How long to wait for a score; Kaggle needs seconds, or minutes when it is busy."""

_REMEDY = "`dvc repro submit` writes it again, `dvc pull` brings what others made."
_KINDS = ("public", "private")
_OTHER_PHOTOS = {
    "demo": "drawn by the project itself",
    "figshare": "a held-out part of the competition's training photos",
}
"""Sources whose test photos are not the competition's."""


class Upload(BaseModel):
    """One submission of one file, as ``uploads.json`` records it."""

    competition: str
    sha256: str
    """Digest of the file's bytes."""
    runs: list[str]
    """The ``uid`` of each run that the file was made of."""
    time: str
    """When it was submitted or found at Kaggle, ISO 8601, UTC."""
    ref: int
    """Kaggle's number."""
    status: Literal["pending", "complete", "error"]
    error: str
    scores: dict[str, float]
    """``public_score``, ``private_score``."""

    @property
    def metrics(self) -> dict[str, float]:
        """The scores, named as in MLflow."""
        return {f"kaggle/{name}": score for name, score in self.scores.items()}

    @property
    def outcome(self) -> str:
        """In words for people."""
        if self.status == "error":
            return f"failed: {self.error or 'Kaggle does not say why'}"
        scores = [
            f"{kind} score {score:.5f}" for kind in _KINDS if (score := self.scores.get(f"{kind}_score")) is not None
        ]
        return ", ".join(scores) or "no score yet"


@dataclass(frozen=True)
class SubmissionFile:
    """A checked file that can be submitted."""

    path: Path
    sha256: str
    rows: int
    competition: str
    description: str
    records: tuple[RunRecord, ...]
    """The runs that get the score: the ensemble's, or that of each fold of a model."""
    earlier: Upload | None
    """Its submission, if ``uploads.json`` has one."""
    empty: bool
    """Whether no mask holds a pixel."""

    def describe(self) -> str:
        """What would be done, line by line."""
        lines = [
            f"file:         {self.path} ({counted(self.rows, 'row')}, all valid; SHA-256 {self.sha256[:12]})",
            f"competition:  {self.competition}",
            f"description:  {self.description}",
            "score to:     " + ", ".join(map(_target, self.records)),
        ]
        if self.empty:
            lines.append("warning:      no class is submitted for any photo: this scores as an empty submission does")
        if self.earlier is None:
            lines.append("then:         submit it unless Kaggle has it, wait for its score, and log that")
        else:
            lines.append(f"submitted:    {self.earlier.time}, submission {self.earlier.ref}: {self.earlier.outcome}")
            lines.append("then:         ask Kaggle for its scores, and log them; it is not submitted again")
        return "\n".join(lines)


def prepare(
    competition: str, data: Path, uploads: Path, model: str | None = None, message: str | None = None
) -> SubmissionFile:
    """Check a submission completely, without a network.

    Args:
        competition: the last part of its address.
        data: the folder of what stages write.
        uploads: ``uploads.json``.
        model: whose submission; the ensemble's if None.
        message: shown at Kaggle before the file's hash; the model's name and its out-of-fold score if None.

    Raises:
        HarveysegError: when there is no such submission, it is not what the stage ``submit`` wrote, not valid, or not
            about the competition's test photos; when the workspace lacks the runs that it was made of; when Kaggle's
            client is not installed.
    """
    require_client()
    model = model or ENSEMBLE
    folder = data / "submission"
    path = folder / ("submission.csv" if model == ENSEMBLE else f"{model}.csv")
    about = _read_about(folder / "submission.json", path, model)
    if not path.exists():
        raise HarveysegError(f"{path}: no such file. {_REMEDY}")
    digest = sha256(path)
    if digest != about.get("sha256"):
        raise HarveysegError(f"{path}: is not the file that submission.json describes. {_REMEDY}")
    manifest = read_manifest(data / "raw" / "manifest.csv")
    classes = parse_classes(about["classes"], folder / "submission.json", _REMEDY)
    height, width = about["score_size"]
    masks = read_submission(path, manifest.loc[manifest["part"] == "test", "id"], classes, (height, width))
    score = about.get("val_score")
    text = message or (model if score is None else f"{model}, out of fold {score:.5f}")
    return SubmissionFile(
        path=path,
        sha256=digest,
        rows=sum(map(len, masks.values())),
        competition=competition,
        description=f"{text} {_mark(digest)}",
        records=_read_records(data, model, about),
        earlier=_find_upload(uploads, competition, digest),
        empty=not any(any(rows) for rows in masks.values()),
    )


def submit(file: SubmissionFile, uploads: Path) -> Upload:
    """Submit a file unless it was submitted before, and wait for its score.

    Args:
        file: what to submit.
        uploads: ``uploads.json``, which is up to date whenever this ends.

    Returns:
        The submission, with the scores that Kaggle shows.

    Raises:
        HarveysegError: when the file was submitted before and Kaggle shows nothing new of it; when Kaggle refuses the
            file, cannot score it, is not done with it in time, or cannot be reached; saying what to do.
    """
    competition = Competition(file.competition)
    lock = uploads.parent / ".locks" / "uploads.lock"
    with locked(lock):
        upload = refresh_scores(file, competition, uploads)
        if upload is None:
            upload = _send(file, competition, uploads)
            print(f"submitted: submission {upload.ref} of {competition.page}/submissions", flush=True)
    if upload.status == "pending":
        found = competition.wait(upload.ref, WAIT_SECONDS)
        upload = _record(file, found, uploads, upload)
    if upload.status == "pending":
        raise HarveysegError(
            f"Submission {upload.ref} of {file.path} still waits for its score after {WAIT_SECONDS:.0f} s. The same "
            f"command continues to wait, without submitting it again; see also {competition.page}/submissions."
        )
    if upload.status == "error":
        raise HarveysegError(
            f"Kaggle could not score submission {upload.ref} of {file.path}: {upload.error or 'it does not say why'}\n"
            "submit.row_id and the competition's page say which rows it expects; data.kaggle.competition has to be the "
            "competition of these photos."
        )
    return upload


def refresh_scores(file: SubmissionFile, competition: Competition, uploads: Path) -> Upload | None:
    """What Kaggle shows of an earlier submission of a file; ``uploads.json`` records it.

    Returns:
        The submission; None when the file was never submitted.

    Raises:
        HarveysegError: when it was, and nothing is new of it; when Kaggle cannot be reached.
    """
    earlier = _find_upload(uploads, file.competition, file.sha256)
    found = _find_at_kaggle(file, competition)
    if found is not None:
        upload = _record(file, found, uploads, earlier)
        if upload != earlier or upload.status != "complete":
            return upload
    if earlier is None:
        return None
    raise HarveysegError(
        f"{file.path}: this very file was submitted before (submission {earlier.ref}, {earlier.time}; "
        f"{earlier.outcome}), so it is not submitted again."
    )


def read_uploads(path: Path) -> list[Upload]:
    """Read ``uploads.json``, oldest first; none when there is no such file.

    Raises:
        HarveysegError: when it is damaged.
    """
    if not path.exists():
        return []
    remedy = "Restore it (`git checkout`), or remove it: then only Kaggle's list tells what was submitted."
    try:
        return [Upload.model_validate(item) for item in read_json(path, remedy).get("uploads", [])]
    except (ValidationError, TypeError, OSError) as error:
        raise HarveysegError(f"{path}: is no record of uploads ({error}). {remedy}") from None


def kaggle_scores(uploads: Sequence[Upload], record: RunRecord) -> dict[str, float]:
    """The scores that Kaggle gave to a run's latest scored submission, named as in MLflow."""
    return {name: score for upload in uploads if record.uid in upload.runs for name, score in upload.metrics.items()}


def _send(file: SubmissionFile, competition: Competition, uploads: Path) -> Upload:
    """Submit the file, and look it up in Kaggle's list: an answer can get lost."""
    cause = ""
    try:
        competition.submit(file.path, file.description)
    except BrokenOffError as error:
        cause = f" {error}"
    found = _find_at_kaggle(file, competition)
    if found is None:
        raise HarveysegError(
            f"{file.path}:{cause} The file is not among the submissions of {competition.page}/submissions so far. The "
            "same command looks there again, and submits the file only if it did not arrive."
        )
    return _record(file, found, uploads)


def _record(file: SubmissionFile, found: KaggleSubmission, uploads: Path, earlier: Upload | None = None) -> Upload:
    """The upload as Kaggle shows it now, written to ``uploads.json``; an earlier record keeps its time and runs."""
    current = Upload(
        competition=file.competition,
        sha256=file.sha256,
        runs=earlier.runs if earlier else [record.uid for record in file.records],
        time=earlier.time if earlier else datetime.now(UTC).isoformat(timespec="seconds"),
        ref=found.ref,
        status=found.status,
        error=found.error,
        scores=found.scores,
    )
    others = [item for item in read_uploads(uploads) if _key(item) != _key(current)]
    write_json(uploads, {"uploads": [item.model_dump() for item in (*others, current)]})
    return current


def _find_at_kaggle(file: SubmissionFile, competition: Competition) -> KaggleSubmission | None:
    """The newest submission of the file in Kaggle's list, found by its mark."""
    mark = _mark(file.sha256)
    return next((item for item in competition.submissions() if item.description.endswith(mark)), None)


def _target(record: RunRecord) -> str:
    """Which run gets the score; one that MLflow did not know when it was made is looked up there by its uid."""
    return record.name if record.run_id is None else f"{record.name} (MLflow run {record.run_id})"


def _mark(digest: str) -> str:
    """What the description of a submission ends with, at Kaggle."""
    return f"[{digest[:12]}]"


def _key(upload: Upload) -> tuple[str, str]:
    return upload.competition, upload.sha256


def _find_upload(uploads: Path, competition: str, digest: str) -> Upload | None:
    """The newest record of a file's submission to a competition."""
    return next((item for item in reversed(read_uploads(uploads)) if _key(item) == (competition, digest)), None)


def _read_about(side_car: Path, path: Path, model: str) -> Mapping[str, Any]:
    """What ``submission.json`` says of a file."""
    content = read_json(side_car, _REMEDY)
    files = content.get("files")
    complete = {"classes", "score_size"} <= content.keys()
    if not complete or not isinstance(files, dict) or not all(isinstance(about, dict) for about in files.values()):
        raise HarveysegError(f"{side_car}: does not say what the files were made of. {_REMEDY}")
    if not files:
        raise HarveysegError(
            f"{side_car}: lists no submission, since the data have no test photos. Run the pipeline on the "
            "competition's photos (data.source = kaggle)."
        )
    if path.name not in files:
        names = (ENSEMBLE if name == "submission.csv" else name.removesuffix(".csv") for name in files)
        raise HarveysegError(
            f"--model {model}: {path.parent} has no submission of it. Known are: {', '.join(sorted(names))}"
        )
    source = content.get("data_source")
    if source in _OTHER_PHOTOS:
        raise HarveysegError(
            f"{path}: was made with data.source = {source}, whose test photos are {_OTHER_PHOTOS[source]}: Kaggle "
            "would not take it. Run the pipeline on the competition's photos (data.source = kaggle)."
        )
    return {**files[path.name], "classes": content["classes"], "score_size": content["score_size"]}


def _read_records(data: Path, model: str, about: Mapping[str, Any]) -> tuple[RunRecord, ...]:
    """The runs that the file was made of, checked against what ``submission.json`` says."""
    if model == ENSEMBLE:
        uids = {data / "ensemble" / "run.json": about.get("uid")}
    else:
        members = about.get("members") or {}
        uids = {data / "models" / name / "run.json": member["uid"] for name, member in members.items()}
    records = {path: read_run(path) for path in uids}
    problems = [
        f"{path}: is another run than the one that the submission was made of"
        for path, record in records.items()
        if record.uid != uids[path]
    ]
    raise_problems(problems, f"the submission of {model}", _REMEDY)
    return tuple(records.values())
