"""docs/team.md, run: two members, an MLflow server, a DVC remote on S3 (moto's server, which checks keys) and git.

The blocks of commands in the document are run as they are, with its example addresses and keys replaced. The story is
one test, because each of its steps starts from what the one before left on the servers and in the clones.
"""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from ruamel.yaml import YAML

from helpers.paths import ROOT
from helpers.ports import free_port
from helpers.project import FEW_PHOTOS, TINY, Project, stages_run, start_project
from helpers.waiting import answers, wait_until

pytestmark = pytest.mark.slow

DOCUMENT = (ROOT / "docs" / "team.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^<!-- tested: ([\w-]+) -->\n```\w+\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL))
SETTINGS: dict[str, object] = {**TINY, "data": FEW_PHOTOS}
REPORTS = ("comparison.csv", "comparison.md")


class Team:
    """The servers and the bare repository, in one folder, and what replaces the document's examples."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_blocks: set[str] = set()
        self._processes: list[subprocess.Popen[bytes]] = []
        seed = start_project(folder / "seed", SETTINGS)
        seed.run("git", "clone", "-q", "--bare", ".", str(folder / "harveyseg.git"))
        self.environment = {
            **{name: value for name, value in seed.environment.items() if not name.startswith("AWS")},
            # Whoever runs the tests may have keys of their own.
            "AWS_CONFIG_FILE": str(folder / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        s3_port, self.port = free_port(), free_port()
        self.s3_url, self.mlflow_url = f"http://127.0.0.1:{s3_port}", f"http://127.0.0.1:{self.port}"
        self.replacements = {
            "https://mlflow.example.org": self.mlflow_url,
            "mlflow.example.org": f"127.0.0.1:{self.port}",
            "--port 5000": f"--port {self.port}",
            "/srv/mlflow": str(folder / "mlflow"),
            "https://s3.example.org": self.s3_url,
            "git@git.example.org:flood/harveyseg.git": str(folder / "harveyseg.git"),
            "dvc gc ": "dvc gc --force ",  # else it asks
        }
        self.mlflow = self.start("server")
        self._start_s3(s3_port)

    def script(self, block: str) -> str:
        """A block of the document with the examples replaced."""
        self.run_blocks.add(block)
        script: str = BLOCKS[block]
        for example, value in self.replacements.items():
            script = script.replace(example, value)
        return script

    def start(self, block: str) -> subprocess.Popen[bytes]:
        """Start a server; :meth:`wait` says when it answers."""
        return self._run(["bash", "-c", self.script(block)], f"{block}.log")

    def wait(self, address: str) -> None:
        try:
            wait_until(lambda: answers(address))
        except AssertionError:
            raise AssertionError("\n".join(log.read_text() for log in self.folder.glob("*.log"))) from None

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                self.stop(process)

    def runs(self, kind: str) -> dict[str, list[dict[str, str]]]:
        """The tags of the runs on the server, by model, as the server itself answers."""
        experiment = self._ask("experiments/get-by-name?experiment_name=harveyseg")["experiment"]
        answer = self._ask(
            "runs/search",
            {"experiment_ids": [experiment["experiment_id"]], "filter": f"tags.`harveyseg.kind` = '{kind}'"},
        )
        runs: dict[str, list[dict[str, str]]] = {}
        for run in answer["runs"]:
            tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
            runs.setdefault(tags["harveyseg.model"], []).append(tags | {"id": run["info"]["run_id"]})
        return runs

    def keys_in_bucket(self, prefix: str) -> list[str]:
        listing = self.s3.list_objects_v2(Bucket="flood-team", Prefix=prefix)
        return [entry["Key"] for entry in listing.get("Contents", [])]

    def _ask(self, method: str, content: object = None) -> Any:
        request = urllib.request.Request(
            f"{self.mlflow_url}/api/2.0/mlflow/{method}",
            None if content is None else json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def _run(self, command: list[str], log: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as opened:
            process = subprocess.Popen(
                command,
                env={**self.environment, **environment},
                stdout=opened,
                stderr=opened,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def _start_s3(self, port: int) -> None:
        """A server with the bucket and one account; after these four requests it checks every signature."""
        command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
        self._run(command, "s3.log", INITIAL_NO_AUTH_ACTION_COUNT="4")
        self.wait(f"{self.s3_url}/moto-api/data.json")
        anyone = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
        place = {"endpoint_url": self.s3_url, "region_name": "us-east-1"}
        iam = boto3.client("iam", **place, **anyone)
        iam.create_user(UserName="team")
        key = iam.create_access_key(UserName="team")["AccessKey"]
        everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
        iam.put_user_policy(UserName="team", PolicyName="all", PolicyDocument=policy)
        boto3.client("s3", **place, **anyone).create_bucket(Bucket="flood-team")
        self.replacements |= {"EXAMPLEKEY": key["AccessKeyId"], "EXAMPLESECRET": key["SecretAccessKey"]}
        keys = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
        self.s3 = boto3.client("s3", **place, **keys)


class Member(Project):
    """A clone, in which blocks of the document are run, each in a shell of its own that begins with block "session"."""

    def __init__(self, team: Team, name: str) -> None:
        (team.folder / name).mkdir()
        super().__init__(team.folder / name)
        self.team = team
        self.environment = team.environment
        self.block("clone")
        self.folder /= "harveyseg"

    def block(self, name: str, ok: bool = True, **environment: str) -> str:
        """Run a block; what it printed."""
        script = self.team.script("session") + self.team.script(name)
        return self.run("bash", "-euo", "pipefail", "-c", script, ok=ok, **environment)

    def reports(self) -> list[bytes]:
        return [(self.folder / "data" / "reports" / name).read_bytes() for name in REPORTS]


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    team = Team(tmp_path)
    yield team
    team.close()


def documented(message: str) -> str:
    """A part of a message that the document explains."""
    assert message in DOCUMENT
    return message


def test_every_block_of_commands_is_tested_or_says_why_not() -> None:
    fences = re.findall(r"^(.*)\n```\w+$", DOCUMENT, re.MULTILINE)
    assert fences
    assert [line for line in fences if not re.fullmatch(r"<!-- (tested: [\w-]+|not tested: .+) -->", line)] == []


@pytest.mark.long
def test_the_story_of_the_document(team: Team) -> None:
    ann = Member(team, "ann")
    ann_shares_a_first_result(team, ann)
    bob = Member(team, "bob")
    bob_has_the_same_table_byte_for_byte(team, ann, bob)
    only_bobs_new_model_is_trained_although_the_server_is_away(team, bob)
    ann_gets_bobs_model(team, ann, bob)
    ann_makes_the_same_table_without_the_server(team, ann)
    cleaning_keeps_what_is_committed(team, ann)
    a_wrong_bucket_is_named(ann)
    assert team.run_blocks == set(BLOCKS)  # all that are marked as tested


def ann_shares_a_first_result(team: Team, ann: Member) -> None:
    ann.block("remote")
    # What does not need the server can begin while it starts.
    assert stages_run(ann.run("dvc", "repro", "split")) == {"code", "download", "resize-cache", "split"}
    assert documented("Unable to locate credentials") in ann.run("dvc", "push", ok=False)
    ann.block("keys")
    assert ann.run("git", "status", "--porcelain", "--untracked-files=all", "--", ".dvc") == ""  # no keys in git
    assert (ann.folder / ".dvc" / "config.local").exists()
    team.wait(f"{team.mlflow_url}/health")
    printed = ann.block("share")
    assert stages_run(printed) == {
        "train@unet-0", "evaluate@unet-0", "ensemble", "postprocess", "metrics", "compare", "submit"
    }  # fmt: skip
    assert "WARNING" not in printed
    assert list(team.runs("train")) == ["unet"]
    assert list(team.runs("ensemble")) == ["ensemble"]
    assert not (ann.folder / "mlflow.db").exists()
    assert any((team.folder / "mlflow" / "artifacts").rglob("weights.safetensors"))  # written by the server


def bob_has_the_same_table_byte_for_byte(team: Team, ann: Member, bob: Member) -> None:
    bob.run("dvc", "remote", "modify", "--local", "team", "access_key_id", "wrong")
    bob.run("dvc", "remote", "modify", "--local", "team", "secret_access_key", "wrong")
    assert documented("Forbidden") in bob.run("dvc", "pull", ok=False)
    bob.block("keys")
    assert "unet" in bob.block("get")
    assert bob.reports() == ann.reports()
    assert bob.record("unet-0") == ann.record("unet-0")
    for name in REPORTS:  # made from the server's answers, not left as it was pulled
        (bob.folder / "data" / "reports" / name).unlink()
    bob.run("harveyseg", "table", MLFLOW_TRACKING_URI=team.mlflow_url)
    assert bob.reports() == ann.reports()


def only_bobs_new_model_is_trained_although_the_server_is_away(team: Team, bob: Member) -> None:
    before = team.runs("train")["unet"]
    yaml = YAML()
    params = yaml.load(bob.folder / "params.yaml")
    params["models"] |= yaml.load(team.script("model"))["models"]
    yaml.dump(params, bob.folder / "params.yaml")
    team.stop(team.mlflow)
    printed = bob.block("share", ok=False, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    after_training = {"evaluate@narrow_unet-0", "ensemble", "postprocess", "metrics", "compare"}
    assert stages_run(printed) == {"code", "train@narrow_unet-0"} | after_training
    assert documented("Continuing WITHOUT tracking") in printed
    assert re.search(
        r"^error: MLflow at \S+ cannot be used: .*Connection refused\n.*MLFLOW_TRACKING_URI", printed, re.M
    )
    assert documented("Connection refused")
    weights = (bob.folder / "data" / "models" / "narrow_unet-0" / "weights.safetensors").read_bytes()
    assert bob.record("narrow_unet-0").run_id is None

    team.mlflow = team.start("server-s3")
    team.wait(f"{team.mlflow_url}/health")
    printed = bob.block("back")
    assert re.search(r"^narrow_unet-f0: imported, 1 epoch, \d+ values, \d+ files$", printed, re.MULTILINE)
    assert stages_run(printed) == {"compare", "submit"}
    assert printed.rstrip().endswith("The table and the stages' files agree.")
    runs = team.runs("train")
    assert runs.keys() == {"unet", "narrow_unet"}
    assert runs["unet"] == before
    (run,) = runs["narrow_unet"]
    (key,) = [key for key in team.keys_in_bucket("mlflow/") if run["id"] in key and key.endswith(".safetensors")]
    assert team.s3.get_object(Bucket="flood-team", Key=key)["Body"].read() == weights
    assert list(bob.table()["model"].unique()) == ["unet", "narrow_unet", "ensemble", "all_empty"]
    assert stages_run(bob.block("share")) == set()


def ann_gets_bobs_model(team: Team, ann: Member, bob: Member) -> None:
    first = ann.record("unet-0")
    assert re.search(r"^narrow_unet +0\.\d{5} ", ann.block("get"), re.MULTILINE)
    assert ann.reports() == bob.reports()
    assert ann.record("unet-0") == first
    assert ann.record("narrow_unet-0") == bob.record("narrow_unet-0")
    assert stages_run(ann.run("dvc", "repro")) == set()
    runs = team.runs("train")
    assert {model: len(tags) for model, tags in runs.items()} == {"unet": 1, "narrow_unet": 1}


def ann_makes_the_same_table_without_the_server(team: Team, ann: Member) -> None:
    before = ann.reports()
    for name in REPORTS:
        (ann.folder / "data" / "reports" / name).unlink()
    team.stop(team.mlflow)
    printed = ann.block("alone")
    assert re.findall(r"^(\S+): imported", printed, re.MULTILINE) == [
        "unet-f0",
        "narrow_unet-f0",
        "ensemble",
        "all_empty",
    ]
    assert ann.reports() == before
    assert ann.runs() == 2


def cleaning_keeps_what_is_committed(team: Team, ann: Member) -> None:
    stored = set(team.keys_in_bucket("harveyseg/"))
    used = {key for key in stored if "/files/" in key}
    team.s3.put_object(Bucket="flood-team", Key="harveyseg/files/md5/00/" + "0" * 30, Body=b"of no commit")
    ann.block("clean")
    ann.block("clean-remote")
    assert {key for key in team.keys_in_bucket("harveyseg/") if "/files/" in key} == used
    table = ann.folder / "data" / "reports" / "comparison.csv"
    table.write_text(table.read_text() + "edited,,\n")
    assert documented("unsaved files") in ann.run("dvc", "pull", ok=False)
    ann.run("dvc", "pull", "--force")
    assert "up to date" in ann.run("dvc", "status")


def a_wrong_bucket_is_named(ann: Member) -> None:
    ann.run("dvc", "remote", "modify", "--local", "team", "url", "s3://flood-taem/harveyseg")
    assert documented("The specified bucket does not exist") in ann.run("dvc", "push", ok=False)
