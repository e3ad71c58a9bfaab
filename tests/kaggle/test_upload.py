"""`harveyseg upload` against a local Kaggle: checked, submitted once, scored, logged, recorded whatever breaks."""

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harveyseg.classes import HARVEY25
from harveyseg.data.manifest import MANIFEST_COLUMNS
from harveyseg.data.sources.kaggle_client import Competition, KaggleSubmission
from harveyseg.errors import HarveysegError
from harveyseg.evaluation.submission import SubmitParams, write_submission
from harveyseg.files import sha256, write_json
from harveyseg.kaggle.upload import SubmissionFile, prepare, submit
from harveyseg.record import RunRecord, write_run
from harveyseg.tracking.client import TrackingParams, open_tracker
from harveyseg.tracking.outputs import RunState, locate_outputs
from harveyseg.tracking.query import find_runs
from helpers.commands import run_command
from helpers.kaggle_server import COMPETITION, LIMIT, SIGNATURE, TOKEN, Answer, Kaggle
from helpers.records import START_MS, make_record

SIZE = (1024, 1024)
HARVEY = {"classes": HARVEY25.model_dump(), "score_size": list(SIZE)}


def record(model: str, fold: int | None) -> RunRecord:
    kind = "ensemble" if fold is None else "train"
    return make_record(model, fold, kind=kind, uid=f"uid-{model}", data_source="kaggle", ended_ms=START_MS + 1)


def describe(project: Path, source: str = "kaggle") -> None:
    """The side-car of the submissions as they are now."""
    folder = project / "data" / "submission"
    files: dict[str, dict[str, Any]] = {
        "submission.csv": {"uid": "uid-ensemble", "run_id": None, "members": {}, "val_score": 0.7264},
        "unet.csv": {"members": {"unet-0": {"uid": "uid-unet", "run_id": None}}, "val_score": 0.71},
    }
    for name, about in files.items():
        about["sha256"] = sha256(folder / name)
    write_json(folder / "submission.json", {**HARVEY, "data_source": source, "files": files})


@pytest.fixture
def project(kaggle: Kaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace after `dvc repro`: two test photos, submissions of the ensemble and a model, and their runs."""
    folder = tmp_path / "project"
    data = folder / "data"
    rows = [f"test,{photo},test_images/{photo}.jpg,,3,4,h," for photo in ("10", "11")]
    (data / "raw").mkdir(parents=True)
    (data / "raw" / "manifest.csv").write_text("\n".join([",".join(MANIFEST_COLUMNS), *rows]) + "\n")
    masks = np.zeros((24, 1024, 1024), np.bool_)
    masks[22, 100:200] = True
    write_submission(data / "submission" / "submission.csv", ["10", "11"], [masks] * 2, HARVEY25, SIZE, SubmitParams())
    write_submission(data / "submission" / "unet.csv", ["10", "11"], [~masks] * 2, HARVEY25, SIZE, SubmitParams())
    write_run(data / "ensemble" / "run.json", record("ensemble", None))
    write_run(data / "models" / "unet-0" / "run.json", record("unet", 0))
    write_run(data / "models" / "other-0" / "run.json", record("other", 0))
    describe(folder)
    settings = f"data: {{source: kaggle, kaggle: {{competition: {COMPETITION}}}}}\n"
    (folder / "params.yaml").write_text(settings + "tracking: {}\nmodels: {unet: {network: unet}}\nfolds: [0]\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    return folder


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, float]]]:
    """What would be logged to MLflow, which takes seconds to start."""
    logged: list[tuple[str, dict[str, float]]] = []

    def mirror(tracker: None, state: RunState) -> None:
        logged.append((state.record.uid, dict(state.metrics)))

    monkeypatch.setattr("harveyseg.tracking.client.open_tracker", lambda params: None)
    monkeypatch.setattr("harveyseg.tracking.mirror.mirror", mirror)
    return logged


def upload(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, command: str = "upload"
) -> tuple[int, str, str]:
    """Run the command: exit status, stdout, stderr. It never shows a secret."""
    status, out, err = run_command(monkeypatch, capsys, command, *arguments)
    for secret in (TOKEN, SIGNATURE):
        assert secret not in out + err
    return status, out, err


def recorded_uploads(project: Path) -> list[dict[str, Any]]:
    uploads: list[dict[str, Any]] = json.loads((project / "uploads.json").read_text())["uploads"]
    return uploads


SCORES = {"kaggle/public_score": 0.7664, "kaggle/private_score": 0.7751}


def test_the_score_gets_to_the_run_of_the_ensemble_and_of_the_model(
    project: Path, kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = upload(monkeypatch, capsys)
    assert status == 0
    assert out.splitlines()[-1] == "submission 56073536: public score 0.76640, private score 0.77510"
    file = project / "data" / "submission" / "submission.csv"
    assert kaggle.uploaded == {"blob-1": file.read_bytes()}
    assert kaggle.submissions[0]["description"] == f"ensemble, out of fold 0.72640 [{sha256(file)[:12]}]"
    assert upload(monkeypatch, capsys, "--model", "unet", "--message", "plain")[0] == 0
    assert kaggle.submissions[0]["description"].startswith("plain [")
    records = [record("ensemble", None), record("unet", 0), record("other", 0)]
    outputs = [locate_outputs(each, project / "data") for each in records]
    ensemble, unet, other = find_runs(open_tracker(TrackingParams(), project), outputs)
    assert other is None
    for run in (ensemble, unet):
        assert run is not None
        assert run.metrics == SCORES
    first, second = recorded_uploads(project)
    assert first["competition"] == COMPETITION
    assert (first["sha256"], first["ref"], first["status"]) == (sha256(file), 56073536, "complete")
    assert first["scores"] == {"public_score": 0.7664, "private_score": 0.7751}
    assert (first["runs"], second["runs"]) == (["uid-ensemble"], ["uid-unet"])


def test_sync_logs_the_scores_that_mlflow_misses(
    project: Path,
    kaggle: Kaggle,
    untracked: list[tuple[str, dict[str, float]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As of a colleague who has uploads.json, and another MLflow."""
    with monkeypatch.context() as patched:
        upload(patched, capsys)
    assert untracked == [("uid-ensemble", SCORES)]
    monkeypatch.undo()
    monkeypatch.chdir(project)
    status, out, _ = upload(monkeypatch, capsys, command="sync")
    assert status == 0
    assert "ensemble: imported, 2 values" in out
    outputs = [locate_outputs(record("ensemble", None), project / "data")]
    (run,) = find_runs(open_tracker(TrackingParams(), project), outputs)
    assert run is not None
    assert run.metrics == SCORES
    assert upload(monkeypatch, capsys, command="sync")[1] == "MLflow has everything.\n"


def test_a_dry_run_says_everything_and_touches_nothing(
    project: Path, kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(project.rglob("*"))
    monkeypatch.setitem(sys.modules, "requests", None)  # whoever imports it fails
    status, out, err = upload(monkeypatch, capsys, "--dry-run", "--model", "unet")
    assert (status, err) == (0, "")
    digest = sha256(project / "data" / "submission" / "unet.csv")[:12]
    for expected in (
        f"data/submission/unet.csv (48 rows, all valid; SHA-256 {digest})",
        COMPETITION,
        f"unet, out of fold 0.71000 [{digest}]",
        "score to:     unet-f0\n",
        "submit it unless Kaggle has it, wait for its score, and log that",
    ):
        assert expected in out
    assert kaggle.requests == []
    assert "kaggle" not in sys.modules
    assert sorted(project.rglob("*")) == before


def test_an_empty_submission_is_said_before_it_is_sent(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    warning = "no class is submitted for any photo"
    assert warning not in upload(monkeypatch, capsys, "--dry-run")[1]
    empty = [np.zeros((24, 1024, 1024), np.bool_)] * 2
    write_submission(
        project / "data" / "submission" / "submission.csv", ["10", "11"], empty, HARVEY25, SIZE, SubmitParams()
    )
    describe(project)
    assert warning in upload(monkeypatch, capsys, "--dry-run")[1]


@pytest.mark.usefixtures("untracked")
class TestUpload:
    """What happens after the first one, and what can go wrong."""

    def test_the_same_file_is_not_submitted_twice(
        self, project: Path, kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        upload(monkeypatch, capsys)
        status, out, err = upload(monkeypatch, capsys)
        assert status == 1
        assert "submission 56073536: public score 0.76640" in out
        assert "it is not submitted again" in out
        assert "this very file was submitted before (submission 56073536, " in err
        # Nor by a clone that has no uploads.json: Kaggle's list tells it, and it gets the score.
        (project / "uploads.json").unlink()
        assert upload(monkeypatch, capsys)[0] == 0
        assert [item["ref"] for item in recorded_uploads(project)] == [56073536]
        # Nor when Kaggle lists it no longer.
        kaggle.submissions.clear()
        assert "it is not submitted again" in upload(monkeypatch, capsys)[2]
        assert kaggle.count("CreateSubmission") == 1
        assert upload(monkeypatch, capsys, "--model", "unet")[0] == 0  # another file
        assert kaggle.count("CreateSubmission") == 2

    def test_a_pending_score_is_waited_for(
        self, kaggle: Kaggle, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        kaggle.scored_after = 3
        status, out, _ = upload(monkeypatch, capsys)
        assert (status, kaggle.count("ListSubmissions")) == (0, 5)  # the first one before it was submitted
        assert "public score 0.76640" in out

    def test_a_score_that_does_not_come_is_asked_for_by_the_next_call(
        self, kaggle: Kaggle, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        kaggle.scored_after = 10**9
        monkeypatch.setattr("harveyseg.kaggle.upload.WAIT_SECONDS", 0.1)
        status, _, err = upload(monkeypatch, capsys)
        assert status == 1
        assert "submission 56073536 of data/submission/submission.csv still waits for its score" in err.lower()
        assert recorded_uploads(project)[0]["status"] == "pending"
        assert "it is not submitted again" in upload(monkeypatch, capsys, "--dry-run")[1]
        kaggle.scored_after = 0
        status, out, _ = upload(monkeypatch, capsys)
        assert status == 0
        assert "submission 56073536: public score 0.76640" in out
        assert len(kaggle.submissions) == len(recorded_uploads(project)) == 1

    def test_while_the_competition_runs_there_is_no_private_score(
        self,
        kaggle: Kaggle,
        project: Path,
        untracked: list[tuple[str, dict[str, float]]],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        kaggle.result["privateScore"] = ""
        assert upload(monkeypatch, capsys)[0] == 0
        assert untracked == [("uid-ensemble", {"kaggle/public_score": 0.7664})]
        status, _, err = upload(monkeypatch, capsys)
        assert (status, len(untracked)) == (1, 1)
        assert "it is not submitted again" in err
        kaggle.submissions[0]["privateScore"] = "0.77510"  # the competition is over
        status, out, _ = upload(monkeypatch, capsys)
        assert (status, untracked[1:]) == (0, [("uid-ensemble", SCORES)])
        assert out.endswith("submission 56073536: public score 0.76640, private score 0.77510\n")
        assert recorded_uploads(project)[0]["scores"] == {"public_score": 0.7664, "private_score": 0.7751}
        assert len(kaggle.submissions) == len(recorded_uploads(project)) == 1

    def test_a_file_that_kaggle_cannot_score(
        self,
        kaggle: Kaggle,
        project: Path,
        untracked: list[tuple[str, dict[str, float]]],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        cause = "Evaluation Exception: Submission must have 2688 rows"
        kaggle.result = {"status": "ERROR", "errorDescription": cause, "publicScore": "", "privateScore": ""}
        status, _, err = upload(monkeypatch, capsys)
        assert status == 1
        assert f"could not score submission 56073536 of data/submission/submission.csv: {cause}" in err
        assert (recorded_uploads(project)[0]["status"], recorded_uploads(project)[0]["error"]) == ("error", cause)
        assert untracked == []
        status, out, err = upload(monkeypatch, capsys)
        assert f"failed: {cause}" in out
        assert f"could not score submission 56073536 of data/submission/submission.csv: {cause}" in err
        assert len(kaggle.submissions) == 1

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (Answer(400, LIMIT), f"Kaggle refuses this: {LIMIT} (400)"),
            (Answer(401, "Unauthenticated"), "does not accept your credentials"),
            (
                Answer(403, "Permission 'competitions.participate' was denied"),
                "was denied (403). Open https://www.kaggle.com/competitions/flood-maps/rules",
            ),
            (Answer(404, "NotFound"), "takes no submissions any more"),
            (Answer(429, "Slow down", {"Retry-After": "4000"}), "asks to wait for 4000 s"),
        ],
    )
    def test_what_is_refused_is_not_recorded(
        self,
        kaggle: Kaggle,
        project: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        answer: Answer,
        message: str,
    ) -> None:
        kaggle.answers["CreateSubmission"] = [answer]
        status, _, err = upload(monkeypatch, capsys)
        assert status == 1
        assert message in err
        assert not (project / "uploads.json").exists()
        assert upload(monkeypatch, capsys)[0] == 0

    def test_a_rate_limit_is_waited_for(
        self, kaggle: Kaggle, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        kaggle.answers["CreateSubmission"] = [Answer(429, "Slow down", {"Retry-After": "1"})]
        assert upload(monkeypatch, capsys)[0] == 0
        assert (len(kaggle.submissions), kaggle.count("CreateSubmission")) == (1, 2)

    @pytest.mark.parametrize("answer", [Answer(0, done=True), Answer(502, done=True)])
    def test_an_answer_that_gets_lost_submits_nothing_twice(
        self,
        kaggle: Kaggle,
        project: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        answer: Answer,
    ) -> None:
        kaggle.answers["CreateSubmission"] = [answer]
        status, out, _ = upload(monkeypatch, capsys)
        assert status == 0
        assert "submission 56073536: public score" in out
        assert len(kaggle.submissions) == len(recorded_uploads(project)) == 1

    @pytest.mark.parametrize("arrived", [False, True])
    def test_after_a_break_the_next_call_looks_whether_it_arrived(
        self,
        kaggle: Kaggle,
        project: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        arrived: bool,
    ) -> None:
        kaggle.answers["ListSubmissions"] = [None, *[Answer(0)] * 4] if arrived else []
        kaggle.answers["CreateSubmission"] = [Answer(0, done=arrived)]
        status, _, err = upload(monkeypatch, capsys)
        assert status == 1
        assert ("the connection failed" if arrived else "submits the file only if it did not arrive") in err
        assert not (project / "uploads.json").exists()
        assert upload(monkeypatch, capsys)[0] == 0
        assert len(kaggle.submissions) == len(recorded_uploads(project)) == 1
        assert recorded_uploads(project)[0]["status"] == "complete"

    def test_waiting_says_how_long_at_most(
        self, kaggle: Kaggle, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("HARVEYSEG_PROGRESS_SECONDS", "0")
        kaggle.scored_after = 3
        status, _, err = upload(monkeypatch, capsys)
        assert status == 0
        line = r"waiting for the score, at most 15 min 00 s: \d+(\.\d+)?/900 s, (\?|\d\d:\d\d) left"
        lines = [line for line in err.splitlines() if line.startswith("waiting")]
        assert lines
        assert all(re.fullmatch(line, shown) for shown in lines), lines

    def test_two_at_once_submit_it_once(self, kaggle: Kaggle, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The second one checked the file before it was submitted, and comes while the first waits for the score."""

        def prepared() -> SubmissionFile:
            return prepare(COMPETITION, Path("data"), Path("uploads.json"))

        second = prepared()
        wait = Competition.wait

        def waiting(self: Competition, ref: int, seconds: float) -> KaggleSubmission:
            monkeypatch.setattr(Competition, "wait", wait)
            assert submit(second, Path("uploads.json")).status == "complete"  # waits for the very same submission
            return wait(self, ref, seconds)

        monkeypatch.setattr(Competition, "wait", waiting)
        kaggle.scored_after = 3
        assert submit(prepared(), Path("uploads.json")).status == "complete"
        with pytest.raises(HarveysegError, match="this very file was submitted before"):
            submit(second, Path("uploads.json"))
        assert len(kaggle.submissions) == len(recorded_uploads(project)) == 1

    def test_a_transfer_that_fails_submits_nothing(
        self, kaggle: Kaggle, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        kaggle.answers["PUT"] = [Answer(503)]
        status, _, err = upload(monkeypatch, capsys)
        assert status == 1
        assert "submission.csv: could not be transferred to Kaggle, and was not submitted" in err
        assert kaggle.submissions == []
        assert upload(monkeypatch, capsys)[0] == 0
        assert len(kaggle.submissions) == len(recorded_uploads(project)) == 1

    def test_a_transfer_shows_its_progress_also_where_it_begins_again(
        self, kaggle: Kaggle, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = project / "data" / "submission" / "submission.csv"
        rows = file.read_text().splitlines()
        rows[1] = rows[1].partition(",")[0] + "," + " ".join(f"{start} 1" for start in range(1, 1024**2, 2))
        file.write_text("\n".join([*rows, ""]))
        describe(project)
        size = file.stat().st_size
        assert size > 3_000_000
        monkeypatch.setenv("HARVEYSEG_PROGRESS_SECONDS", "0")  # each line, not one in ten seconds
        kaggle.answers["PUT"] = [Answer(0)]
        status, _, err = upload(monkeypatch, capsys)
        assert status == 0
        assert kaggle.count("PUT") == 2
        assert list(kaggle.uploaded.values()) == [file.read_bytes()]
        line = re.compile(r"sending submission.csv: ([\d.]+)([kM])B/([\d.]+)MB, [\d.]+[kM]B/s, \d\d:\d\d left")
        shown = [found.groups() for found in map(line.fullmatch, err.splitlines()) if found]
        sent = [float(amount) * {"k": 1e3, "M": 1e6}[unit] for amount, unit, _ in shown]
        assert {total for *_, total in shown} == {f"{size / 1e6:.2f}"}
        again = [place for place in range(1, len(sent)) if sent[place] < sent[place - 1]]
        assert len(again) == 1
        for part in (sent[: again[0]], sent[again[0] :]):
            assert part[0] < size / 10
            assert part[-1] == pytest.approx(size, abs=10_000)
            assert len(part) > 10

    @pytest.mark.parametrize(
        ("change", "arguments", "message"),
        [
            ("edited", [], "submission.csv: is not the file that submission.json describes"),
            ("photos", [], "image '12': no row for class 1, 2, 3"),
            ("source", [], r"data.source = demo, whose test photos are drawn by the project itself"),
            ("run", [], "data/ensemble/run.json: is another run than the one that the submission was made of"),
            (
                "",
                ["--model", "other"],
                "--model other: data/submission has no submission of it. Known are: ensemble, unet",
            ),
            ("record", [], "uploads.json: is no record of uploads"),
            ("folder", [], "uploads.json: is no record of uploads ([Errno 21] Is a directory"),
            (
                "files",
                [],
                "submission.json: does not say what the files were made of. `dvc repro submit` writes it again",
            ),
            ("tracking", [], "tracking.experimnt: unknown key"),
        ],
    )
    def test_the_file_is_checked_before(
        self,
        kaggle: Kaggle,
        project: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        change: str,
        arguments: list[str],
        message: str,
    ) -> None:
        data = project / "data"
        if change == "edited":
            with (data / "submission" / "submission.csv").open("a") as opened:
                opened.write("10.png_25,\n")
        elif change == "photos":
            with (data / "raw" / "manifest.csv").open("a") as opened:
                opened.write("test,12,test_images/12.jpg,,3,4,h,\n")
        elif change == "source":
            describe(project, "demo")
        elif change == "run":
            write_run(data / "ensemble" / "run.json", record("other", None))
        elif change == "record":
            (project / "uploads.json").write_text('{"uploads": [{"ref": 1}]}')
        elif change == "folder":
            (project / "uploads.json").mkdir()
        elif change == "files":
            write_json(data / "submission" / "submission.json", {**HARVEY, "data_source": "kaggle", "files": None})
        elif change == "tracking":
            settings = (project / "params.yaml").read_text()
            (project / "params.yaml").write_text(settings.replace("tracking: {}", "tracking: {experimnt: x}"))
        status, out, err = upload(monkeypatch, capsys, *arguments)
        assert (status, out) == (1, "")
        assert message in err
        assert kaggle.requests == []
