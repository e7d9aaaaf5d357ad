"""The `trio-sup` command before anything is run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runner.running import TRIO_SUP, environment


def call(*arguments: str, tmp_path: Path, via: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*via, *TRIO_SUP, *arguments],
        env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_told_without_importing_anything_heavy(tmp_path: Path, flag: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "trio_sup", flag],
        env=environment(tmp_path), capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout == "trio-sup 0.1.0\n"
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "trio_sup" in imported
    assert imported.isdisjoint({"trio", "cyclopts", "attrs", "attr", "asyncio", "cattrs", "grpclib", "rich"})


def test_the_console_script_is_the_same(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("trio-sup")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "trio-sup 0.1.0\n"


def test_a_version_that_nobody_takes_is_no_traceback(tmp_path: Path) -> None:
    buffered = {**environment(tmp_path), "PYTHONUNBUFFERED": ""}
    reader, writer = os.pipe()
    os.close(reader)
    for stdout, told in (
        (writer, b""),
        (os.open("/dev/full", os.O_WRONLY), b"trio-sup: cannot write: [Errno 28] No space left on device\n"),
    ):
        done = subprocess.run(
            [*TRIO_SUP, "--version"],
            env=buffered, cwd=tmp_path, stdout=stdout, stderr=subprocess.PIPE, timeout=30, check=False,
        )  # fmt: skip
        os.close(stdout)
        assert (done.returncode, done.stderr) == (1, told)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("run", "--help"), ("demo", "-h")])
def test_help_is_on_stdout(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = call(*arguments, tmp_path=tmp_path)
    assert done.returncode == 0
    assert "Usage: trio-sup" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rum",), 'Did you mean "run"?'),
        (("run", "--confg", "x"), "Did you mean --config?"),
        (("run", "x"), "x"),
        (("run", "-c"), "requires an argument"),
        (("demo", "--no-json"), "--no-json"),
        (("--frob",), "--frob"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_hint(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = call(*arguments, tmp_path=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert "--help" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_configuration_ends_with_2_and_says_how_to_make_one(tmp_path: Path) -> None:
    done = call("run", tmp_path=tmp_path)
    assert done.returncode == 2
    assert "trio-sup.toml" in done.stderr
    assert "[backends.vectors]" in done.stderr
    assert os.listdir(tmp_path) == []


def test_closed_standard_streams_do_no_harm(tmp_path: Path) -> None:
    done = call("run", tmp_path=tmp_path, via=("sh", "-c", 'exec "$0" "$@" <&- >&-'))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_stdout_that_takes_nothing_is_one_line_and_1(tmp_path: Path) -> None:
    done = call("plugins", tmp_path=tmp_path, via=("sh", "-c", 'exec "$0" "$@" >/dev/full'))
    assert done.returncode == 1
    assert done.stderr == "trio-sup: cannot write: [Errno 28] No space left on device\n"


def test_a_reader_that_has_gone_is_no_reason_to_complain(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*TRIO_SUP, "plugins"],
            env=environment(tmp_path), cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, timeout=30, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_names_that_the_terminal_cannot_show_are_shown_by_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "trio-sup.toml").write_text('[backends.b]\ncommand = ["true"]\nmodel = "ü"\n', encoding="utf-8")
    done = call("check", tmp_path=tmp_path, via=("env", "PYTHONIOENCODING=ascii"))
    assert done.returncode == 0
    assert "b (\\xfc#0)" in done.stdout


@pytest.mark.parametrize("command", ["run", "check", "why b", "backends"])
def test_a_directory_that_has_been_removed_is_named_as_the_reason(tmp_path: Path, command: str) -> None:
    (tmp_path / "trio-sup.toml").write_text('[backends.b]\ncommand = ["true"]\n')
    (tmp_path / "gone").mkdir()
    removed = 'cd gone && rmdir ../gone && exec "$0" "$@"'
    done = call(*command.split(), "-c", "../trio-sup.toml", tmp_path=tmp_path, via=("sh", "-c", removed))
    assert done.returncode == 1
    assert done.stderr == "trio-sup: the current directory has been removed: go to another one\n"
