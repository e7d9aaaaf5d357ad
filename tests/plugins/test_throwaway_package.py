"""A stranger's package, built and installed beside trio-sup in a clean environment, swaps the core policies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

PYPROJECT = """
[project]
name = "trio-sup-throwaway"
version = "4.5.6"
requires-python = ">=3.11"
dependencies = ["trio-sup"]

[project.entry-points.trio_sup]
aaa_throwaway = "throwaway.policies"
zzz_throwaway = "throwaway.overrides"

[build-system]
requires = ["uv-build>=0.9"]
build-backend = "uv_build"

[tool.uv.build-backend]
module-name = "throwaway"
module-root = ""
"""

POLICIES = """
import os
import signal
from contextlib import asynccontextmanager

import attrs
import trio
from trio_sup import hookimpl


def say(text):
    with open(os.environ["THROWAWAY_LOG"], "a") as file:
        file.write(text + "\\n")


@attrs.define(eq=False)
class CountingPorts:
    first: int = 22000

    def allocate(self, key, now, hold):
        while hold(self.first) != self.first:
            self.first += 1
        say(f"port for {key}")
        return self.first

    def release(self, key, port, now):
        say(f"port back from {key}")


@attrs.define(eq=False)
class TellingLock:
    label: str = "lock"

    @asynccontextmanager
    async def hold(self, backend, *, shared):
        await trio.lowlevel.checkpoint()
        say(f"{self.label} of {backend} held")
        yield


@attrs.frozen
class Interrupt:
    def budget(self, spec):
        return spec.grace + 1

    async def stop(self, target):
        say(f"interrupting {target.key}")
        target.signal(signal.SIGINT)
        with trio.move_on_after(target.spec.grace):
            await target.exited()


@hookimpl
def trio_sup_port_strategies():
    return {"counting": CountingPorts}


@hookimpl
def trio_sup_install_locks():
    return {"telling": TellingLock}


@hookimpl
def trio_sup_stop_policies():
    return {"interrupt": Interrupt, "kill": Interrupt}
"""

# A built-in's name, overridden by the plugin that loads first (above) and by the one that loads last.
OVERRIDES = """
from trio_sup import hookimpl

from .policies import CountingPorts


@hookimpl
def trio_sup_port_strategies():
    return {"lifo": CountingPorts}
"""

BACKEND = """
import signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, lambda *_: sys.exit(7))
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    print("serving on", sys.argv[1], flush=True)
    while True:
        server.accept()[0].close()
"""

OWN = 'ports = { strategy = "counting", first = 22300 }', '{ strategy = "telling", label = "L" }', "interrupt"
OVERRIDDEN = 'ports = { strategy = "lifo", first = 22400 }', '"memory"', "kill"

pytestmark = [pytest.mark.slow, pytest.mark.needs("uv")]


def run(*command: object, **options: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=240, **options)  # type: ignore[call-overload]  # passed on
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a virtual environment with the built trio-sup, the built throw-away package, and nothing else."""
    folder = tmp_path_factory.mktemp("throwaway")
    package = folder / "source" / "throwaway"
    package.mkdir(parents=True)
    (folder / "source" / "pyproject.toml").write_text(PYPROJECT)
    for name, text in (("__init__", ""), ("policies", POLICIES), ("overrides", OVERRIDES)):
        (package / f"{name}.py").write_text(text)
    for source in (ROOT, folder / "source"):
        run("uv", "build", "--quiet", "--wheel", "--out-dir", folder / "dist", source)
    run("uv", "venv", "--quiet", "--python", sys.executable, folder / "venv")
    wheels = sorted((folder / "dist").glob("*.whl"))
    python = folder / "venv" / "bin" / "python"
    run("uv", "pip", "install", "--quiet", "--python", python, "--constraints", ROOT / "constraints.txt", *wheels)
    return folder / "venv" / "bin"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The variables for programs of the clean environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRIO_SUP_", "PYTHON"))}
    return {**kept, "XDG_STATE_HOME": str(tmp_path / "state"), "THROWAWAY_LOG": str(tmp_path / "log")}


@pytest.mark.parametrize(
    ("chosen", "port", "said"),
    [
        (OWN, "22300", ["L of echo held", "port for echo#0", "interrupting echo#0", "port back from echo#0"]),
        (OVERRIDDEN, "22400", ["port for echo#0", "interrupting echo#0", "port back from echo#0"]),
    ],
    ids=["by its own names", "in the place of built-ins, loaded first and last"],
)
def test_an_installed_package_swaps_the_core_policies_of_a_run(
    clean_environment: Path,
    environment: dict[str, str],
    tmp_path: Path,
    chosen: tuple[str, str, str],
    port: str,
    said: list[str],
) -> None:
    ports, lock, stop = chosen
    (tmp_path / "backend.py").write_text(BACKEND)
    (tmp_path / "trio-sup.toml").write_text(
        textwrap.dedent(f"""
        {ports}
        install_lock = {lock}
        stop_policy = "{stop}"

        [backends.echo]
        command = [{str(clean_environment / "python")!r}, "-I", {str(tmp_path / "backend.py")!r}, "{{port}}"]
        readiness = {{ probe = "tcp", timeout = "20s" }}
        grace = "20s"
        """)
    )
    process = subprocess.Popen(
        [clean_environment / "trio-sup", "run", "-c", tmp_path / "trio-sup.toml"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # Ends what does not answer, so that the reading below is bounded.
    bound = threading.Timer(60, process.kill)
    bound.start()
    lines = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "serving on" in line:
                process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        bound.cancel()
        process.kill()
        process.communicate()
    assert any(f"serving on {port}" in line for line in lines), "".join(lines)
    assert (tmp_path / "log").read_text().splitlines() == said


def test_plugins_names_the_package_and_its_version(clean_environment: Path, environment: dict[str, str]) -> None:
    listed = run(clean_environment / "trio-sup", "plugins", "--json", env=environment)
    text = json.dumps(json.loads(listed))
    assert "trio-sup-throwaway" in text
    assert "4.5.6" in text
    assert "interrupt" in text
