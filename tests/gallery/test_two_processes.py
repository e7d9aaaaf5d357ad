"""Several processes share a store: they take turns, and nobody's files are pulled from under him."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import ROOT
from tests.gallery.installs import installer_of, leftovers, live, version_of, write_archive, write_version

CHILDREN = ROOT / "tests" / "gallery" / "children"


@pytest.fixture
def backends(tmp_path: Path) -> Path:
    return tmp_path / "backends"


def write_gallery(base: Path, *names: str) -> Path:
    """A gallery whose archives have the names of their backends as versions; ``engine`` is a meta of the first."""
    entries: list[Mapping[str, Any]] = [{"name": "engine", "capabilities": {"default": names[0]}}]
    for name in names:
        archive = write_archive(base / f"{name}.tar.gz", write_version(base / name, name))
        entries.append({"name": name, "alias": "nick", "uri": f"file://{archive}"})
    (base / "index.json").write_text(json.dumps(entries))
    return base / "index.json"


@contextmanager
def child(name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(CHILDREN / f"{name}.py"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def go(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def outcome_of(process: subprocess.Popen[str]) -> Mapping[str, Any]:
    """What it says last."""
    assert process.stdout is not None
    *_, last = process.stdout
    assert process.wait(30) == 0
    said: Mapping[str, Any] = json.loads(last)
    return said


def test_the_same_from_two_processes_is_fetched_once(backends: Path, tmp_path: Path) -> None:
    command = ("installs", str(backends), str(write_gallery(tmp_path, "cpu-engine")), "1")
    with child(*command, "engine") as one, child(*command, "cpu-engine", "engine") as two:
        go(one, two)
        said = [outcome_of(one), outcome_of(two)]
    assert sum(bool(each["fetched"]) for each in said) == 1
    assert version_of(backends / "cpu-engine") == "cpu-engine"
    assert live(backends) == ["cpu-engine", "engine"]
    assert leftovers(backends) == []


def test_different_ones_from_two_processes_do_not_wait_for_each_other(backends: Path, tmp_path: Path) -> None:
    command = ("installs", str(backends), str(write_gallery(tmp_path, "a", "b", "c", "d")), "1")
    with child(*command, "a", "c") as one, child(*command, "b", "d") as two:
        go(one, two)
        said = [outcome_of(one), outcome_of(two)]
    assert [each["fetched"] for each in said] == [["a", "c"], ["b", "d"]]
    assert [each["waited"] for each in said] == [[], []]
    assert [version_of(backends / name) for name in live(backends)] == ["a", "b", "c", "d"]
    assert leftovers(backends) == []


def test_the_same_over_and_over_from_two_processes_is_whole_at_every_instant(backends: Path, tmp_path: Path) -> None:
    index = write_gallery(tmp_path, "cpu-engine")
    installer = installer_of(backends, *json.loads(index.read_text()))
    trio.run(installer.install, "engine")
    command = ("installs", str(backends), str(index), "8")
    looks = 0
    with child(*command, "engine") as one, child(*command, "cpu-engine", "engine") as two:
        go(one, two)
        while one.poll() is None or two.poll() is None:
            with installer.store.hold(backends / "cpu-engine") as hold:
                # Through the descriptor: the path may mean the next one already.
                assert version_of(Path(f"/proc/self/fd/{hold._opened}/.")) == "cpu-engine"
            assert {release.problem for release in installer.installed()} == {None}
            looks += 1
        assert (one.returncode, two.returncode) == (0, 0)
    assert looks > 5
    trio.run(installer.repair)
    assert leftovers(backends) == []


def test_whoever_waits_says_for_whom(backends: Path, tmp_path: Path) -> None:
    index = write_gallery(tmp_path, "cpu-engine")
    installer = installer_of(backends, *json.loads(index.read_text()))

    async def hold_it(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with trio.fail_after(30):
            async with installer.staged("engine") as staged:
                go(process)
                said = await trio.to_thread.run_sync(process.stdout.readline)
                assert said.startswith("another installation of cpu-engine, held by ")
                assert said.endswith(f"(pid {os.getpid()})\n")
                await staged.commit()

    with child("installs", str(backends), str(index), "1", "engine") as process:
        trio.run(hold_it, process)
        assert outcome_of(process)["fetched"] == []


def test_what_runs_keeps_its_files_through_an_upgrade(backends: Path, tmp_path: Path) -> None:
    index = write_gallery(tmp_path, "cpu-engine")
    installer = installer_of(backends, *json.loads(index.read_text()))
    trio.run(installer.install, "cpu-engine")

    with child("runs_from_a_release", str(backends / "cpu-engine")) as process:

        def sees() -> list[str]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return process.stdout.readline().split()

        before = sees()
        assert before[:2] == ["cpu-engine", "cpu-engine"]
        new = write_version(tmp_path / "new", "2")
        trio.run(lambda: installer.install(str(new), name="cpu-engine"))
        assert version_of(backends / "cpu-engine") == "2"
        for _ in range(2):
            assert sees() == before
            (kept,) = leftovers(backends)
            assert kept.startswith("trash/")
            (holder,) = installer.store.holders(backends / ".trio-sup" / kept)
            assert holder.pid == process.pid
            trio.run(installer.repair)  # as another supervisor does when it starts
    trio.run(installer.store.sweep_trash)
    assert leftovers(backends) == []
