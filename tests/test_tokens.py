"""Tokens: made once, kept as hashes, noticed at once; what is damaged opens nothing."""

import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.errors import FileError, PathError
from executor.tokens import FOLDER, PREFIX, Tokens, add_token, remove_token


def test_a_secret_has_256_bits_and_is_kept_nowhere(tmp_path: Path) -> None:
    secrets = [add_token(tmp_path, name) for name in ("ann", "bob")]
    for secret in secrets:
        assert secret.startswith(PREFIX)
        random = secret.removeprefix(PREFIX)
        assert len(random) == 43  # of 64 characters each: 6 bits
        assert set(random) <= set(string.ascii_letters + string.digits + "-_")
    assert secrets[0] != secrets[1]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    for path in files:
        assert path.stat().st_mode & 0o077 == 0
        assert not any(secret[10:] in path.read_text() for secret in secrets)


def test_a_secret_is_its_token_and_no_other_is(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path)
    assert tokens.is_empty
    secrets = {name: add_token(tmp_path, name, queued_jobs=3) for name in ("ann", "b.o-b_2")}
    assert not tokens.is_empty
    for name, secret in secrets.items():
        found = tokens.of_secret(secret)
        assert found is not None
        assert (found.name, found.queued_jobs, found.requests_per_minute) == (name, 3, None)
        assert tokens.named(name) == found
        for other in (secret[:-1], secret + "a", secret.swapcase(), found.sha256, name):
            assert tokens.of_secret(other) is None


@given(secret=st.text() | st.binary().map(lambda b: b.decode(errors="surrogateescape")))
def test_nothing_that_is_made_up_passes(
    tmp_path_factory: pytest.TempPathFactory, secret: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "made up"
    if not folder.exists():
        add_token(folder, "ann")
    assert Tokens(folder).of_secret(secret) is None


def test_what_is_added_and_removed_is_noticed_at_once(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path)
    for _ in range(20):  # many within one tick of the file system's clock
        secret = add_token(tmp_path, "ann")
        assert tokens.of_secret(secret) is not None
        remove_token(tmp_path, "ann")
        assert tokens.of_secret(secret) is None
        assert tokens.named("ann") is None
        assert tokens.is_empty


def test_a_folder_that_has_long_been_the_same_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = add_token(tmp_path, "ann")
    os.utime(tmp_path / FOLDER, (1, 1))
    tokens = Tokens(tmp_path)
    assert tokens.of_secret(secret)
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail("it was read again"))
    assert tokens.of_secret(secret)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", "a b", "ä", "a" * 65, "a\n"])
def test_a_name_that_no_token_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match="cannot be a token's name"):
        add_token(tmp_path, name)
    with pytest.raises(PathError, match="there is no token"):
        remove_token(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_name_is_given_once_and_the_nearest_is_offered(tmp_path: Path) -> None:
    first = add_token(tmp_path, "annabel")
    with pytest.raises(FileError, match="weft token remove annabel"):
        add_token(tmp_path, "annabel", is_admin=True)
    token = Tokens(tmp_path).of_secret(first)
    assert token is not None
    assert not token.is_admin
    with pytest.raises(PathError, match="did you mean 'annabel'"):
        remove_token(tmp_path, "anabel")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"name": "bob"}', b"[" * 9999])
def test_a_damaged_token_is_nobodys_but_the_server_stays_closed(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    add_token(tmp_path, "ann")
    path = tmp_path / FOLDER / "ann.json"
    path.write_bytes(content)
    tokens = Tokens(tmp_path)
    assert tokens.all() == ()
    assert not tokens.is_empty
    assert "ann.json cannot be used" in caplog.text


def test_a_token_under_anothers_name_is_nobodys(tmp_path: Path) -> None:
    secret = add_token(tmp_path, "ann")
    (tmp_path / FOLDER / "ann.json").rename(tmp_path / FOLDER / "bob.json")
    assert Tokens(tmp_path).of_secret(secret) is None


def test_a_folder_that_cannot_be_read_closes_the_server(tmp_path: Path) -> None:
    secret = add_token(tmp_path, "ann")
    tokens = Tokens(tmp_path)
    assert tokens.of_secret(secret)
    (tmp_path / FOLDER).rename(tmp_path / "away")
    (tmp_path / FOLDER).write_text("no folder")
    assert not tokens.is_empty
    assert tokens.of_secret(secret) is None
    (tmp_path / FOLDER).unlink()
    (tmp_path / "away").rename(tmp_path / FOLDER)
    assert tokens.of_secret(secret)
