"""The state directory and its lock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trio_sup import ConfigError, StateDirectoryInUse
from trio_sup.runner._state_directory import default_state_dir, locked


def test_each_configuration_file_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, other = default_state_dir(Path("/a/chat.toml")), default_state_dir(Path("/b/chat.toml"))
    assert one != other
    assert one.parent == tmp_path / "trio-sup"
    assert one.name.startswith("chat-")
    assert len(one.name) == len("chat-") + 8
    monkeypatch.chdir("/")
    assert default_state_dir(Path("a/chat.toml")) == one


@pytest.mark.parametrize("value", [None, "", "relative"])
def test_it_is_below_home_unless_xdg_state_home_is_absolute(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/somebody")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_STATE_HOME", value)
    assert default_state_dir(Path("/a/chat.toml")).parent == Path("/srv/somebody/.local/state/trio-sup")


def test_it_is_made_for_its_owner_only_and_holds_the_pid(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state"
    with locked(path):
        assert path.stat().st_mode & 0o777 == 0o700
        assert (path / "lock").read_text() == f"{os.getpid()}\n"


def test_only_one_may_use_it_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(StateDirectoryInUse) as raised, locked(tmp_path):
        pass
    assert raised.value.pid == os.getpid()
    with locked(tmp_path):
        pass


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match="cannot be used as state directory: Not a directory"),
        locked(tmp_path / "file" / "state"),
    ):
        pass
