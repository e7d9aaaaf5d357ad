"""The fixtures, in test runs of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PLUGIN = ["-p", "trio_sup.testing.plugin"]


def installed() -> bool:
    from importlib.metadata import entry_points

    return any(point.value == "trio_sup.testing.plugin" for point in entry_points(group="pytest11"))


def run_pytest(directory: Path, code: str, *options: str) -> str:
    """Run *code* as a test module of a stranger's project, and give what pytest says."""
    (directory / "test_stranger.py").write_text(code)
    (directory / "pytest.ini").write_text("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *([] if installed() else PLUGIN), *options],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        # Its own directory for temporary files, to be looked at afterwards.
        env={**os.environ, "TMPDIR": str(directory), "PYTEST_ADDOPTS": ""},
    )
    return done.stdout + done.stderr


LEAVES = {
    "process": "import subprocess; global KEPT; KEPT = subprocess.Popen(['sleep', '20'])",
    "zombie": "import subprocess, os\n    PID = os.spawnlp(os.P_NOWAIT, 'true', 'true')\n"
    "    os.waitid(os.P_PID, PID, os.WEXITED | os.WNOWAIT)",
    "grandchild": "import subprocess; subprocess.run(['sh', '-c', 'sleep 20 & :'], start_new_session=True)",
    "port": "import socket; global KEPT; KEPT = socket.create_server(('127.0.0.1', 0))",
    "descriptor": "import os; os.open('/dev/null', os.O_RDONLY)",
    "file": "import os, pathlib; pathlib.Path(os.environ['XDG_RUNTIME_DIR'], 'b.lock').touch()",
}
NAMED = {
    "process": "(sleep 20)",
    "zombie": "ended but never waited for",
    "grandchild": "(sleep 20)",
    "port": "port ",
    "descriptor": "(/dev/null)",
    "file": "b.lock",
}


@pytest.mark.parametrize("what", LEAVES)
def test_what_survives_fails_the_test_and_is_named(tmp_path: Path, what: str) -> None:
    cleaning = "\n\ndef test_after(nothing_survives):\n    pass\n"
    said = run_pytest(tmp_path, f"KEPT = []\n\ndef test_leaves(nothing_survives):\n    {LEAVES[what]}\n{cleaning}")
    assert "survived the test: " in said, said
    assert NAMED[what] in said, said
    # The next test is not blamed for it.
    assert "2 passed, 1 error" in said, said


def test_a_descriptor_in_the_place_of_another_is_named(tmp_path: Path) -> None:
    code = """
import os

BEFORE = os.open("/dev/null", os.O_RDONLY)

def test_leaves(nothing_survives):
    os.close(BEFORE)
    assert os.open("/dev/zero", os.O_RDONLY) == BEFORE
"""
    assert "(/dev/zero)" in run_pytest(tmp_path, code)


def test_a_trio_run_that_goes_on_is_named(tmp_path: Path) -> None:
    code = """
import threading
import trio

def test_leaves(nothing_survives):
    started = threading.Event()

    async def goes_on():
        started.set()
        await trio.sleep(5)

    threading.Thread(target=trio.run, args=(goes_on,), daemon=True).start()
    started.wait(10)
"""
    said = run_pytest(tmp_path, code)
    assert "Trio task" in said, said
    assert "goes_on" in said, said


def test_what_was_there_before_and_what_is_put_away_is_fine(tmp_path: Path) -> None:
    code = """
import os, socket, subprocess
BEFORE = socket.create_server(("127.0.0.1", 0))

def test_leaves_nothing(nothing_survives):
    os.close(os.open("/dev/null", os.O_RDONLY))
    socket.create_server(("127.0.0.1", 0)).close()
    subprocess.run(["true"], check=True)

def test_afterwards_the_environment_is_as_before():
    assert "trio-sup-test-" not in os.environ.get("XDG_RUNTIME_DIR", "")
"""
    assert "2 passed" in run_pytest(tmp_path, code)
    assert not list(tmp_path.glob("trio-sup-test-*"))


def test_a_supervisor_is_there_and_its_backends_end_with_the_test(tmp_path: Path) -> None:
    code = """
import os, pathlib
import pytest
from trio_sup import Readiness
from trio_sup.testing import scripted_backend

PIDS = []

@pytest.fixture
def supervisor_options():
    return {"ports": "ephemeral"}

async def test_starts(supervisor, nothing_survives):
    backend = await supervisor.start(scripted_backend(grace=0.3))
    PIDS.append(backend.pid)
    assert int(backend.address.rpartition(":")[2]) not in range(21000, 22000)

def test_has_ended():
    assert not pathlib.Path(f"/proc/{PIDS[0]}").exists()

async def test_fake(fake_system, autojump_clock):
    from trio_sup import BackendSpec, open_supervisor
    async with open_supervisor(system=fake_system, install_lock="memory") as sup:
        await sup.start(BackendSpec(name="chat", command=["sh"]))
        assert len(fake_system.children) == 1
"""
    said = run_pytest(tmp_path, code)
    assert "3 passed" in said, said


def test_loading_it_does_not_load_trio() -> None:
    code = "import sys, trio_sup.testing.plugin; print({'trio', 'hypothesis'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "set()\n"


def test_the_package_works_without_pytest_and_hypothesis() -> None:
    code = "import sys; sys.modules['pytest'] = sys.modules['hypothesis'] = None; from trio_sup.testing import *"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
