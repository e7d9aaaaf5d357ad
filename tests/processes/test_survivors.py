"""A real process that cannot be ended: one of another user, under a supervisor that may not signal it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .powerless import run_powerless

PROGRAM = """
import trio, trio_sup
from trio_sup import events

async def main():
    spec = trio_sup.BackendSpec(
        name="stubborn",
        command=["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c",
                 "echo $$ > $0; cat gate; echo last words; exec sleep 300", "pid-{port}"],
        readiness=trio_sup.Readiness(probe={"strategy": "exec", "command": ["test", "-s", "pid-{port}"]}),
        grace=0.2,
    )
    async with trio_sup.open_supervisor(shutdown_timeout=1) as sup:
        backend = await sup.start(spec)
        try:
            await sup.stop("stubborn")
        except trio_sup.StopFailed as error:
            print("failed:", error)
        (now,) = sup.backends
        named = [survivor.pid for survivor in now.survivors]
        print(now.phase.name, sup.get_address(now.key), now.port == backend.port, backend.pid in named)
        try:
            await sup.start(spec)
        except trio_sup.StopFailed:
            print("no second process")
        stream = sup.events()
        with open("gate", "w") as gate:
            gate.write("still writing\\n")
        with trio.move_on_after(10):
            async for line in sup.logs(backend.key, follow=True):
                print(line, flush=True)
                if line.text == "last words":
                    break
        print("kill", backend.pid, flush=True)
        async for event in stream:
            if isinstance(event, events.BackendGone):
                print("gone:", event.report.status, flush=True)
                break

trio.run(main)
"""


@pytest.mark.needs("setpriv")
@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to make a process of another user")
@pytest.mark.slow
def test_a_process_we_may_not_signal_is_named_watched_and_at_last_gone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate", 0o644)
    text = run_powerless(PROGRAM, tmp_path)
    assert "not permitted to signal it" in text
    assert "STOP_FAILED None True True" in text
    assert "no second process" in text
    assert "still writing\nlast words\n" in text
    assert text.endswith("gone: killed by SIGKILL\n")
