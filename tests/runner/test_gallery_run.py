"""`trio-sup run` with backends from releases, and the commands that change those under it."""

from __future__ import annotations

import io
import json
import signal
import tarfile
from pathlib import Path

import pytest
import trio

from tests.gallery.releases import write_release
from tests.runner.galleries import Place, columns, lines
from tests.runner.running import running

pytestmark = pytest.mark.usefixtures("nothing_of_it_survives")

CHAT = '[backends.chat]\nrelease = "server"\n'


def runs_chat(folder: Path) -> Place:
    """A run of it installs its release first."""
    place = Place.make(folder, settings="auto_install = true", more=CHAT)
    place.offer({"name": "server", "version": "1", "uri": packed(folder, "1").as_uri()})
    return place


def packed(folder: Path, version: str) -> Path:
    """A release that really serves, as an archive."""
    directory = write_release(folder / f"made-{version}", version)
    archive = folder / f"server-{version}.tar"
    with tarfile.open(archive, "w") as tar:
        for path in sorted(directory.iterdir()):
            tar.addfile(tar.gettarinfo(path, path.name), io.BytesIO(path.read_bytes()))
    return archive


async def test_a_release_is_installed_run_replaced_and_kept_from_deletion(tmp_path: Path) -> None:
    place = runs_chat(tmp_path)
    with trio.fail_after(60):
        async with running("run", env=place.environment, cwd=tmp_path) as run:
            await run.says("stderr", "server: unpacking")
            await run.says("stderr", "server 1 is installed")
            await run.says("stderr", "chat#0 is ready")
            await run.says("stdout", f"version 1 in {place.backends}/server")
            holder = f"(pid {run.supervisor})"

            listed = await place.process("backends")
            (row,) = columns(listed.stdout.decode())
            assert row["IN USE BY"].endswith(holder)

            refused = await place.process("delete", "server")
            assert (refused.returncode, refused.stdout) == (1, b"")
            assert f"{holder}. Stop it there first.\n" in refused.stderr.decode()

            place.offer({"name": "server", "version": "2", "uri": packed(tmp_path, "2").as_uri()})
            upgraded = await place.process("upgrade", "server", "--json")
            assert upgraded.returncode == 0
            assert "server keeps running from the old release in " in upgraded.stderr.decode()
            *_, result = lines(upgraded.stdout)
            assert result["old_in_use_by"][0].endswith(holder)
            assert place.version_of("server") == "2"

            run.process.send_signal(signal.SIGTERM)
            assert await run.process.wait() == 0
        assert (await place.process("delete", "server")).returncode == 0
    assert not (place.backends / "server").exists()


async def test_a_release_that_is_missing_keeps_the_run_from_beginning(tmp_path: Path) -> None:
    place = Place.make(tmp_path, more=CHAT)
    place.offer()
    with trio.fail_after(30):
        done = await place.process("run")
    assert done.returncode == 2
    assert b"backends.chat.release: 'server' is not installed: nothing is installed. Install it with" in done.stderr


async def test_programs_see_installations_among_the_events_of_a_run(tmp_path: Path) -> None:
    place = runs_chat(tmp_path)
    with trio.fail_after(60):
        async with running("run", "--json", env=place.environment, cwd=tmp_path) as run:
            event = json.loads(await run.says("stdout", '"ReleaseInstalled"'))
            assert event["release"]["name"] == "server"
            await run.says("stdout", '"phase": "unpacking"')
