"""Handing a submission in to Kaggle: what is checked before, what is remembered after, and whose score it is.

Every upload is remembered in ``uploads.json`` in the project's root, from just before the file is sent: whatever
breaks off, the next call knows what may have happened. Nothing of the pipeline reads or writes it.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harveyseg.data.manifest import read_manifest
from harveyseg.data.sources.kaggle_client import BrokenOffError, Competition, require_client
from harveyseg.errors import HarveysegError, raise_problems
from harveyseg.evaluation.submission import read_submission
from harveyseg.files import read_json, sha256, write_json
from harveyseg.record import RunRecord, read_run
from harveyseg.tracking.client import Tracker

ENSEMBLE = "ensemble"
WAIT_SECONDS = 900.0
"""How long a score is waited for; Kaggle needs seconds, or minutes when many hand in."""

_SCORES = {"public": "public_score", "private": "private_score"}
_REMAKE = "`dvc repro submit` writes it anew, `dvc pull` brings what others made."
_OTHER_PHOTOS = {
    "demo": "drawn by the project itself",
    "figshare": "a held-out part of the competition's training photos",
}
"""Sources whose test photos are not the competition's."""


class Upload(BaseModel):
    """One upload of one file, as ``uploads.json`` remembers it."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    competition: str
    model: str
    sha256: str
    """Of the file's bytes."""
    description: str
    """What is shown at Kaggle; it names the file's hash, so that an upload can be found again there."""
    runs: list[str]
    """The ``uid`` of each run that the file was made of."""
    time: str
    """When it was sent, ISO 8601, UTC."""
    ref: int | None = None
    """Kaggle's number; None while it is unknown whether the file arrived."""
    status: Literal["sent", "pending", "complete", "error"] = "sent"
    error: str = ""
    scores: dict[str, float] = Field(default_factory=dict)
    """``public_score``, ``private_score``."""

    @property
    def metrics(self) -> dict[str, float]:
        """The scores, named as in MLflow."""
        return {f"kaggle/{name}": score for name, score in self.scores.items()}

    @property
    def outcome(self) -> str:
        """For people: what became of it."""
        if self.status == "complete":
            shown = [f"{part} score {self.scores[key]:.5f}" for part, key in _SCORES.items() if key in self.scores]
            return ", ".join(shown) or "scored, but Kaggle does not show the score"
        return {
            "sent": "broke off while it was sent",
            "pending": "waits for its score",
            "error": f"failed: {self.error or 'Kaggle does not say why'}",
        }[self.status]


@dataclass(frozen=True)
class Plan:
    """A checked file, and what shall happen to it."""

    path: Path
    model: str
    sha256: str
    rows: int
    competition: str
    description: str
    records: tuple[RunRecord, ...]
    """The runs that get the score: the ensemble's, or that of each fold of a model."""
    earlier: tuple[Upload, ...]
    """Uploads of the same file to the same competition, oldest first."""

    @property
    def unfinished(self) -> Upload | None:
        """An earlier upload whose outcome is not known yet: it is gone on with, and nothing new is sent."""
        return next((upload for upload in self.earlier if upload.status in ("sent", "pending")), None)

    @property
    def again(self) -> bool:
        """Whether the file would be handed in once more."""
        return bool(self.earlier) and self.unfinished is None

    @property
    def unscored(self) -> tuple[Upload, ...]:
        """Scored uploads without a private score: Kaggle shows that once the competition is over."""
        return tuple(one for one in self.earlier if one.status == "complete" and "private_score" not in one.scores)

    def describe(self) -> str:
        """What would be done, line by line."""
        lines = [
            f"file:         {self.path} ({self.rows} rows, all valid; SHA-256 {self.sha256[:12]})",
            f"competition:  {self.competition}",
            f"description:  {self.description}",
            "score to:     " + ", ".join(f"{record.name} (MLflow run {record.run_id})" for record in self.records),
        ]
        lines += [f"uploaded:     {one.time}, submission {one.ref or '?'}: {one.outcome}" for one in self.earlier]
        if self.unfinished is not None:
            lines.append("then:         go on with that upload and wait for its score; nothing is sent again")
        elif self.again:
            look = "look whether Kaggle shows a private score by now; if not, " if self.unscored else ""
            lines.append(f"then:         {look}ask whether to hand in the same file again")
        else:
            lines.append("then:         hand it in, wait for its score, and log that")
        return "\n".join(lines)


def make_plan(
    competition: str, data: Path, uploads: Path, model: str | None = None, message: str | None = None
) -> Plan:
    """Check a submission completely, without any network.

    Args:
        competition: the last part of its address.
        data: the folder of what stages write.
        uploads: ``uploads.json``.
        model: whose submission; the ensemble's if None.
        message: shown at Kaggle before the file's hash; the model's name and its out-of-fold score if None.

    Raises:
        HarveysegError: when there is no such submission, it is not what the stage ``submit`` wrote, not valid, or not
            about the competition's test photos; when the runs that it was made of are not in the workspace; when
            Kaggle's client is not installed.
    """
    require_client()
    folder, model = data / "submission", model or ENSEMBLE
    about = read_json(folder / "submission.json", _REMAKE)
    path = folder / ("submission.csv" if model == ENSEMBLE else f"{model}.csv")
    files = about.get("files")
    if not isinstance(files, dict) or not all(isinstance(made, dict) for made in files.values()):
        raise HarveysegError(f"{folder / 'submission.json'}: does not say what the files were made of. {_REMAKE}")
    if path.name not in files:
        known = ", ".join(sorted(ENSEMBLE if name == "submission.csv" else name.removesuffix(".csv") for name in files))
        raise HarveysegError(f"--model {model}: {folder} has no submission of it. Known are: {known}")
    if (source := about.get("data_source")) in _OTHER_PHOTOS:
        raise HarveysegError(
            f"{path}: was made with data.source = {source}, whose test photos are {_OTHER_PHOTOS[source]}: Kaggle "
            "would not take it. Run the pipeline on the competition's photos (data.source = kaggle)."
        )
    if not path.exists():
        raise HarveysegError(f"{path}: no such file. {_REMAKE}")
    digest, made = sha256(path), files[path.name]
    if digest != made.get("sha256"):
        raise HarveysegError(f"{path}: is not the file that submission.json describes. {_REMAKE}")
    manifest = read_manifest(data / "raw" / "manifest.csv")
    rows = read_submission(path, manifest.loc[manifest["part"] == "test", "id"])
    score = made.get("val_score")
    text = message or (model if score is None else f"{model}, out of fold {score:.5f}")
    return Plan(
        path=path,
        model=model,
        sha256=digest,
        rows=sum(map(len, rows.values())),
        competition=competition,
        description=f"{text} [{digest[:12]}]",
        records=_records(data, model, made),
        earlier=_earlier(uploads, competition, digest),
    )


def _earlier(uploads: Path, competition: str, digest: str) -> tuple[Upload, ...]:
    """What is known of a file's uploads to a competition."""
    return tuple(one for one in read_uploads(uploads) if (one.competition, one.sha256) == (competition, digest))


def _records(data: Path, model: str, made: dict[str, object]) -> tuple[RunRecord, ...]:
    """The runs whose submission it is, checked against what the side-car says."""
    members = made.get("members")
    if model == ENSEMBLE:
        expected = {data / "ensemble" / "run.json": made.get("uid")}
    else:
        names = members if isinstance(members, dict) else {}
        expected = {data / "models" / name / "run.json": member["uid"] for name, member in names.items()}
    records = {path: read_run(path) for path in expected}
    problems = [
        f"{path}: is another run than the one that the submission was made of"
        for path, record in records.items()
        if record.uid != expected[path]
    ]
    raise_problems(problems, f"the submission of {model}", _REMAKE)
    return tuple(records.values())


def look_again(plan: Plan, uploads: Path) -> Upload | None:
    """Ask Kaggle for what it did not show of the scores of earlier uploads; ``uploads.json`` remembers it.

    Args:
        plan: whose earlier uploads.
        uploads: ``uploads.json``.

    Returns:
        The latest upload of which Kaggle shows more by now, if any.

    Raises:
        HarveysegError: when Kaggle cannot be asked.
    """
    latest = None
    if plan.unscored:
        found = {one.ref: one for one in Competition(plan.competition).submissions()}
        for upload in plan.unscored:
            if (known := found.get(upload.ref or 0)) and known.scores.keys() > upload.scores.keys():
                upload.scores = known.scores
                _remember(uploads, upload)
                latest = upload
    return latest


def hand_in(plan: Plan, uploads: Path) -> Upload:
    """Send the file, or go on with an unfinished upload of it, and wait for the score.

    Args:
        plan: what to send.
        uploads: ``uploads.json``; it is up to date whenever this ends, however it ends.

    Returns:
        The upload, with its score.

    Raises:
        HarveysegError: when Kaggle refuses the file, found an error in it, is not done with it in time, or cannot be
            reached; and when another process sent it since the plan was made; saying what to do.
    """
    competition = Competition(plan.competition)
    with FileLock(_lock(uploads, "sending")):
        # What another process has sent since the plan was made, and what became of an upload that was on its way then.
        now = replace(plan, earlier=_earlier(uploads, plan.competition, plan.sha256))
        if now.again != plan.again or {one.id for one in now.earlier} != {one.id for one in plan.earlier}:
            raise HarveysegError(
                f"{plan.path}: another process has handed in this very file meanwhile, so it was not sent. The same "
                "command shows what became of that."
            )
        upload = now.unfinished
        if upload is not None and upload.ref is None:
            upload.ref = _find(competition, upload, uploads)
        if upload is None or upload.ref is None:
            upload = _send(competition, plan, upload, uploads)
            print(f"handed in: submission {upload.ref} of {competition.page}/submissions", flush=True)
        upload.status = "pending"
        _remember(uploads, upload)
    found = competition.wait(int(upload.ref or 0), WAIT_SECONDS)
    upload.status, upload.error, upload.scores = found.status, found.error, found.scores
    _remember(uploads, upload)
    if upload.status == "pending":
        raise HarveysegError(
            f"Submission {upload.ref} of {plan.path} still waits for its score after {WAIT_SECONDS:.0f} s. The same "
            f"command goes on waiting, without sending it again; {competition.page}/submissions shows it, too."
        )
    if upload.status == "error":
        raise HarveysegError(
            f"Kaggle could not score submission {upload.ref} of {plan.path}: {upload.error or 'it does not say why'}\n"
            "submit.row_id and the competition's page say what rows it expects; data.kaggle.competition has to be the "
            "competition of these photos."
        )
    return upload


def _send(competition: Competition, plan: Plan, broken: Upload | None, uploads: Path) -> Upload:
    """Hand the file in; remembered before and after."""
    upload = Upload(
        competition=plan.competition,
        model=plan.model,
        sha256=plan.sha256,
        description=plan.description,
        runs=[record.uid for record in plan.records],
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if broken is not None:
        upload.id = broken.id  # that one did not arrive
    _remember(uploads, upload)
    cause = ""
    try:
        upload.ref = competition.submit(plan.path, plan.description) or None
    except BrokenOffError as error:
        cause = f" {error}"
    except HarveysegError:  # refused: nothing was handed in
        _remember(uploads, upload, forget=True)
        raise
    if upload.ref is None:
        upload.ref = _find(competition, upload, uploads)
    if upload.ref is None:
        raise HarveysegError(
            f"{plan.path}:{cause} The file is not among the submissions of {competition.page}/submissions so far. The "
            "same command looks there again, and sends the file only if it did not arrive."
        )
    return upload


def _find(competition: Competition, upload: Upload, uploads: Path) -> int | None:
    """The number of an upload that was sent without an answer, if it arrived."""
    known = {other.ref for other in read_uploads(uploads)}
    found = [one.ref for one in competition.submissions() if one.description == upload.description]
    return next((ref for ref in found if ref not in known), None)


def read_uploads(path: Path) -> list[Upload]:
    """Read ``uploads.json``, oldest first; none when there is no such file.

    Raises:
        HarveysegError: when it is damaged.
    """
    if not path.exists():
        return []
    remedy = "Restore it (`git checkout`), or remove it: then nothing is known of earlier uploads."
    try:
        return [Upload.model_validate(item) for item in read_json(path, remedy).get("uploads", [])]
    except (ValidationError, TypeError, OSError) as error:
        raise HarveysegError(f"{path}: is no record of uploads ({error}). {remedy}") from None


def _remember(path: Path, upload: Upload, forget: bool = False) -> None:
    """Write the upload's new state into ``uploads.json``, or take it out."""
    with FileLock(_lock(path, "uploads")):
        kept = {one.id: one for one in read_uploads(path)} | {upload.id: upload}
        if forget:
            del kept[upload.id]
        write_json(path, {"uploads": [one.model_dump() for one in kept.values()]})


def _lock(uploads: Path, name: str) -> Path:
    lock = uploads.parent / ".locks" / f"{name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    return lock


def scores_of(uploads: Sequence[Upload], record: RunRecord) -> dict[str, float]:
    """The scores that Kaggle gave to a run's latest scored submission, named as in MLflow."""
    values: dict[str, float] = {}
    for upload in uploads:
        if record.uid in upload.runs:
            values |= upload.metrics
    return values


def log_missing_scores(tracker: Tracker, records: Sequence[RunRecord], uploads: Sequence[Upload]) -> list[str]:
    """Log to MLflow the scores that its runs lack, as when it could not be reached or a colleague uploaded.

    Returns:
        One line for each run that lacked some.

    Raises:
        HarveysegError: when MLflow cannot be used.
    """
    lines = []
    for record, known in zip(records, tracker.find(records), strict=True):
        scores = scores_of(uploads, record)
        if scores and (known is None or not scores.items() <= known.metrics.items()):
            tracker.add_results(record, scores)
            lines.append(f"{record.name}: {', '.join(sorted(scores))}")
    return lines
