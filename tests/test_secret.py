"""The server's secret: one, kept to itself, with a key for each purpose."""

from pathlib import Path

import pytest

from executor.errors import FileError
from executor.secret import NAME, secret_of


def test_it_is_made_once_and_only_its_user_can_read_it(tmp_path: Path) -> None:
    key = secret_of(tmp_path / "user").key_for("x")
    assert secret_of(tmp_path / "user").key_for("x") == key
    assert (tmp_path / "user" / NAME).stat().st_mode & 0o077 == 0
    assert secret_of(tmp_path / "other").key_for("x") != key


def test_each_purpose_and_each_owner_has_a_key_of_its_own(tmp_path: Path) -> None:
    secret = secret_of(tmp_path)
    keys = {secret.key_for(purpose) for purpose in ("files", "session", "cookie", "")}
    keys |= {bytes.fromhex(secret.for_webhooks(owner)) for owner in ("", "ann", "bob")}
    assert len(keys) == 7
    assert {len(key) for key in keys} == {32}


@pytest.mark.parametrize("content", ["", "00" * 31, "zz" * 32, "ä"])
def test_one_that_is_damaged_is_not_used(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    with pytest.raises(FileError, match="delete it to get a new one"):
        secret_of(tmp_path)
