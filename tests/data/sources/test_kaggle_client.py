"""Kaggle's own client against a local Kaggle: how one signs in, what each refusal says, what is repeated."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harveyseg.data.sources.kaggle_client import Competition, require_client
from harveyseg.errors import HarveysegError
from helpers.kaggle_server import COMPETITION, KEY, SIGNATURE, TOKEN, Answer, Kaggle


@pytest.mark.parametrize("way", ["variable", "access_token", "username and key", "kaggle.json", "KAGGLE_CONFIG_DIR"])
def test_every_documented_way_to_sign_in(
    kaggle: Kaggle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    way: str,
) -> None:
    home = tmp_path / "home" / ".kaggle"
    if way != "variable":
        monkeypatch.delenv("KAGGLE_API_TOKEN")
    if way == "access_token":
        (home / "access_token").write_text(TOKEN + "\n")
    elif way == "username and key":
        monkeypatch.setenv("KAGGLE_USERNAME", "ana")
        monkeypatch.setenv("KAGGLE_KEY", KEY)
    elif way in ("kaggle.json", "KAGGLE_CONFIG_DIR"):
        folder = home if way == "kaggle.json" else tmp_path / "elsewhere"
        folder.mkdir(exist_ok=True)
        (folder / "kaggle.json").write_text(json.dumps({"username": "ana", "key": KEY}))
        (folder / "kaggle.json").chmod(0o644)
        if way == "KAGGLE_CONFIG_DIR":
            monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(folder))
    assert Competition(COMPETITION).submissions() == []
    assert capsys.readouterr().out == ""
    # The client's warnings get through, once: this one is of a key that others can read.
    assert caplog.text.count("Your Kaggle API key is readable") == (way in ("kaggle.json", "KAGGLE_CONFIG_DIR"))


@pytest.mark.parametrize("token", [None, "old"])
def test_without_credentials_it_says_how_to_sign_in(
    kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], token: str | None
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    if token is not None:
        monkeypatch.setenv("KAGGLE_API_TOKEN", token)
    with pytest.raises(HarveysegError, match=r"No credentials.*kaggle auth login.*KAGGLE_API_TOKEN.*docs/kaggle\.md"):
        Competition(COMPETITION)
    assert capsys.readouterr() == ("", "")


def test_without_the_client_the_extra_is_named(kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaggle", None)
    for call in (require_client, lambda: Competition(COMPETITION)):
        with pytest.raises(HarveysegError, match=r"pip install -e '\.\[kaggle\]'"):
            call()
    assert kaggle.requests == []


def test_a_key_that_is_not_accepted(kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    monkeypatch.setenv("KAGGLE_USERNAME", "ana")
    monkeypatch.setenv("KAGGLE_KEY", "old-key")
    with pytest.raises(HarveysegError, match=r"not accept your credentials: Unauthenticated \(401\)") as caught:
        Competition(COMPETITION).archive()
    assert "old-key" not in str(caught.value)


def test_rules_that_are_not_accepted(kaggle: Kaggle) -> None:
    kaggle.rules_accepted = False
    expected = rf"You must accept this competition's rules.*\(403\)\. Open .*competitions/{COMPETITION}/rules"
    with pytest.raises(HarveysegError, match=expected):
        Competition(COMPETITION).archive()


def test_a_competition_that_does_not_exist(kaggle: Kaggle) -> None:
    with pytest.raises(
        HarveysegError, match=r"no competition 'fire-maps'.*NotFound \(404\).*data\.kaggle\.competition"
    ):
        Competition("fire-maps").archive()


def test_the_archive_is_where_kaggle_leads_to(kaggle: Kaggle) -> None:
    kaggle.archive = b"x" * 3_000_000
    url, size = Competition(COMPETITION).archive()
    assert size == 3_000_000
    assert SIGNATURE in url


def test_a_rate_limit_is_waited_for(kaggle: Kaggle, caplog: pytest.LogCaptureFixture) -> None:
    competition = Competition(COMPETITION)
    kaggle.answers["DownloadDataFiles"] = [Answer(429, "Too many requests", {"Retry-After": "1"}), Answer(429)]
    start = time.monotonic()
    competition.archive()
    assert time.monotonic() - start >= 1
    assert kaggle.count("DownloadDataFiles") == 3
    assert "Kaggle: Too many requests (429). Next try in 1 s." in caplog.text


def test_a_long_rate_limit_is_not_waited_for(kaggle: Kaggle) -> None:
    competition = Competition(COMPETITION)
    kaggle.answers["DownloadDataFiles"] = [Answer(429, "Too many requests", {"Retry-After": "3600"})]
    with pytest.raises(HarveysegError, match=r"Too many requests \(429\)\. It asks to wait for 3600 s"):
        competition.archive()


@pytest.mark.parametrize("answer", [Answer(0), Answer(503, "Service unavailable")])
def test_what_passes_is_repeated_and_not_for_ever(kaggle: Kaggle, answer: Answer) -> None:
    competition = Competition(COMPETITION)
    kaggle.answers["DownloadDataFiles"] = [answer] * 3
    competition.archive()
    assert kaggle.count("DownloadDataFiles") == 4
    kaggle.answers["DownloadDataFiles"] = [answer] * 4
    cause = r"the connection failed \(ProxyError\)" if not answer.status else r"Service unavailable \(503\)"
    with pytest.raises(HarveysegError, match=rf"Kaggle: {cause}\. Check the network"):
        competition.archive()


def test_no_secret_is_shown(kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    """VERBOSE makes the client print its headers and log signed addresses."""
    monkeypatch.setenv("VERBOSE", "1")
    kaggle.answers["GET"] = [Answer(0), Answer(403, "The address has expired")]
    script = f"from harveyseg.data.sources.kaggle_client import Competition as C; C({COMPETITION!r}).archive()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    shown = done.stdout + done.stderr
    assert kaggle.count("GET") == 2
    assert "Next try in " in shown
    assert "The address has expired" in shown
    for secret in (TOKEN, SIGNATURE, "Bearer"):
        assert secret not in shown
