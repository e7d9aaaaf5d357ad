"""Installs two versions of a release in turn, each in a process of its own, which is killed at a given moment.

Reads lines from stdin: a JSON object with ``backends``, ``index``, ``way`` (``"exchange"`` or ``"renames"``), and
``step`` (killed before the change of this number) or ``delay`` (killed after so many seconds). Answers with the status
of that process. ``check`` instead of these looks whether what is there is whole, repairs, and answers with what is
wrong.

Every installation is made in a fork, so that the interpreter is loaded only once.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from tests.gallery.installs import installer_of, leftovers, live, version_of, write_archive, write_version
from tests.gallery.test_exchange import unable
from trio_sup.gallery import _exchange
from trio_sup.gallery._exchange import exchange
from trio_sup.gallery._installing import Installer

CHANGES = {
    "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "os.link", "os.symlink", "os.truncate", "os.utime",
    "shutil.copyfile", "shutil.copystat", "shutil.copymode",
}  # fmt: skip


def installer(order: dict[str, Any]) -> Installer:
    backends = Path(order["backends"])
    entries = json.loads(Path(order["index"]).read_text())
    return installer_of(backends, *entries, by=unable if order["way"] == "renames" else exchange)


def kill_before(step: int) -> None:
    left = step

    def changing(*args: object) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
            changing()

    # The call that exchanges is not one of Python's own, so no audit hook sees it.
    call = _exchange._renameat2()
    assert call is not None

    def counted(source: bytes, target: bytes, flag: int) -> int:
        changing()
        result = call(source, target, flag)
        changing()
        return result

    _exchange._renameat2 = lambda: counted  # type: ignore[assignment]
    sys.addaudithook(audit)


def install(order: dict[str, Any]) -> None:
    if "step" in order:
        kill_before(order["step"])

    async def main() -> None:
        each = installer(order)
        while True:
            await each.install("engine", force=True)
            if "step" in order:
                return

    trio.run(main)


def check(order: dict[str, Any]) -> str:
    """What is wrong with what is there; empty if nothing is."""
    backends = Path(order["backends"])

    def look() -> str:
        for release in installer(order).installed():
            if release.problem is not None:
                return f"{release.name}: {release.problem}"
            assert release.directory is not None
            version_of(release.directory)
            if release.metadata.name is None or release.metadata.installed_at is None:
                return f"{release.name}: not recorded"
        return ""

    def names() -> set[str]:
        return {release.name for release in installer(order).installed()}

    try:
        # Without the exchange there is a moment at which the old one is away and the new one not yet there.
        wrong = look() if order["way"] == "exchange" else ""
        if not wrong and order["way"] == "exchange" and order["there"] and "cpu-engine" not in names():
            wrong = "it is missing"
        trio.run(installer(order).repair)
        wrong = wrong or look()
        if not wrong and order["there"] and "cpu-engine" not in names():
            wrong = "it is missing after the repair"
        if not wrong and set(live(backends)) - {"cpu-engine", "engine"}:
            wrong = f"there is {live(backends)}"
        if not wrong and (left := [each for each in leftovers(backends) if not each.startswith("downloads/")]):
            wrong = f"left is {left}"
    except BaseException as error:
        wrong = f"{type(error).__name__}: {error}"
    return wrong


def in_a_fork(work: Callable[..., object], *args: object) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work(*args)
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    return pid


def answer_of_a_fork(work: Callable[..., str], *args: object) -> str:
    ours, theirs = os.pipe()
    pid = in_a_fork(lambda: os.write(theirs, work(*args).encode()))
    os.close(theirs)
    with open(ours, encoding="utf-8") as file:
        answer = file.read()
    return answer if os.waitpid(pid, 0)[1] == 0 else answer or "it failed"


def load_what_is_needed() -> None:
    """Load, before the first fork, what the forks would load one by one: what one of them has loaded in the end."""

    def names() -> str:
        with tempfile.TemporaryDirectory() as base:
            archive = write_archive(Path(base, "a.tar.gz"), write_version(Path(base, "a"), "1"))
            entry = {"name": "engine", "uri": f"file://{archive}"}
            trio.run(installer_of(Path(base, "backends"), entry).install, "engine")
        return " ".join(sys.modules)

    for name in answer_of_a_fork(names).split():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def main() -> None:
    load_what_is_needed()
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("check"):
            answer: Any = answer_of_a_fork(check, order)
        else:
            pid = in_a_fork(install, order)
            if "delay" in order:
                time.sleep(order["delay"])
                os.kill(pid, signal.SIGKILL)
            answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps(answer), flush=True)


main()
