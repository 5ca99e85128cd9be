"""``weft token``: what it makes, prints and removes; and a server that is reached from networks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from executor.__main__ import main
from executor.secret import secret_of
from executor.tokens import Tokens

ROOT = Path(__file__).parents[1]


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    """What a command writes to stdout and stderr."""
    assert main(["token", *words]) == code
    told = capsys.readouterr()
    return told.out, told.err


def test_a_token_is_printed_once_and_works(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ("--requests-per-minute", "90", "--queued-jobs", "5", "--admin")
    out, err = said(capsys, "add", "ann", *limits)
    secret = out.strip()
    assert "not shown again" in err
    assert secret not in err
    token = Tokens(folder / "user").of_secret(secret)
    assert token is not None
    assert (token.name, token.requests_per_minute, token.queued_jobs) == ("ann", 90, 5)
    assert token.is_admin
    for listed in (said(capsys, "list"), said(capsys, "--json", "list")):
        assert "ann" in listed[0]
        assert secret[5:] not in listed[0]
        assert token.sha256 not in listed[0]


def test_json_tells_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, "--json", "list")
    assert json.loads(out) == {"tokens": []}
    made = json.loads(said(capsys, "--json", "add", "ann")[0])
    assert Tokens(folder / "user").of_secret(made["token"])
    (listed,) = json.loads(said(capsys, "--json", "list")[0])["tokens"]
    assert listed.keys() >= {"name", "created_ms", "requests_per_minute", "queued_jobs"}
    assert json.loads(said(capsys, "--json", "remove", "ann")[0]) == {"removed": "ann"}
    assert json.loads(said(capsys, "--json", "remove", "ann", code=2)[0])["problems"]


def test_a_token_that_is_removed_is_worthless(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = said(capsys, "add", "ann")[0].strip()
    assert said(capsys, "remove", "ann") == ("", "")
    assert Tokens(folder / "user").of_secret(secret) is None
    assert "weft token add NAME" in said(capsys, "list")[0]
    assert "there is no token 'ann'" in said(capsys, "remove", "ann", code=2)[1]


def test_tokens_are_those_of_the_server_that_is_meant(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said(capsys, "--base-directory", str(folder / "a"), "add", "ann")
    said(capsys, "--user-directory", str(folder / "b"), "add", "bob")
    monkeypatch.setenv("WEFT_BASE_DIRECTORY", str(folder / "c"))
    said(capsys, "add", "cid")
    for user, name in (("a/user", "ann"), ("b", "bob"), ("c/user", "cid")):
        assert [token.name for token in Tokens(folder / user).all()] == [name]


def test_the_secret_of_webhooks_is_the_tokens_own(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "add", "ann")
    secret = secret_of(folder / "user")
    assert said(capsys, "webhook-secret", "ann")[0].strip() == secret.for_webhooks("ann")
    assert said(capsys, "webhook-secret")[0].strip() == secret.for_webhooks("")
    assert "there is no token 'bob'" in said(capsys, "webhook-secret", "bob", code=2)[1]
    told = json.loads(said(capsys, "--json", "webhook-secret", "ann")[0])
    assert told == {"name": "ann", "webhook_secret": secret.for_webhooks("ann")}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("add", "../x"), "cannot be a token's name"),
        (("add", "a b"), "cannot be a token's name"),
    ],
)
def test_what_cannot_be_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], why: str
) -> None:
    assert why in said(capsys, *words, code=2)[1]
    assert not (folder / "user").exists()


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1.5", "9" * 20])
def test_a_limit_is_at_least_one(
    folder: Path, capsys: pytest.CaptureFixture[str], limit: str
) -> None:
    with pytest.raises(SystemExit):
        main(["token", "add", "ann", f"--queued-jobs={limit}"])
    assert "a whole number from 1 on" in capsys.readouterr().err


@pytest.mark.parametrize("listen", ["0.0.0.0", "127.0.0.1,::"])
def test_a_server_of_networks_without_a_token_does_not_start(folder: Path, listen: str) -> None:
    command = [sys.executable, "server.py", "--listen", listen, "--port", "0", "--cpu"]
    command += ["--base-directory", str(folder)]
    ran = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=50
    )
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    for word in (listen, "weft token add NAME", "--allow-anonymous"):
        assert word in line
    assert not (folder / "user").exists()
