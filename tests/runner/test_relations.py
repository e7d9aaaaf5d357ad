"""What backends of one file have to do with each other: needs, groups, room, restarts, in the file and in a run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import trio

from tests.runner.running import TALKS, TCP, command_of, environment, running
from tests.runner.test_configuration import PYTHON, problems, read
from tests.runner.test_run_command import pid_of

pytestmark = pytest.mark.usefixtures("nothing_of_it_survives")

DIES = command_of(sys.executable, "-c", "raise SystemExit(3)")
SERVES = command_of(sys.executable, TALKS)
HASTY = '{ strategy = "on-failure", delay = "50ms", max_start_failures = 2 }'


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "trio-sup.toml"
    path.write_text(text)
    return str(path)


# ---- in the file


def test_groups_room_and_autostart_are_read(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        f"""
        max_running = 3
        memory_budget = "4GiB"
        [groups.pair]
        restart = "one-for-all"
        [backends.a]
        command = {PYTHON}
        group = "pair"
        autostart = false
        [backends.b]
        command = {PYTHON}
        needs = ["a"]
        bind = true
        memory = "500MB"
        """,
    )
    settings, (a, b) = config.settings, config.backends
    assert (settings.max_running, settings.memory_budget) == (3, 4 * 2**30)
    assert settings.groups["pair"].restart == "one-for-all"
    assert (a.group, a.autostart, b.autostart) == ("pair", False, True)
    assert (b.needs, b.bind, b.memory) == (("a",), True, 500_000_000)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('needs = ["vektors"]', "backends.front.needs[0]: there is no backend 'vektors' in this file; did you mean"),
        ('needs = ["vectors", "vectors#7"]', "backends.front.needs[1]: there is no backend 'vectors#7' in this file"),
        ('group = "pear"', "backends.front.group: there is no group 'pear'; did you mean 'pair'?"),
        ('group = "zzz"', "backends.front.group: there is no group 'zzz'; add a table [groups.zzz]"),
        ("bind = true", "backends.front.bind: has no effect without needs (got True)"),
        ("autostart = 1", "backends.front.autostart: expected true or false (got 1)"),
        ('memory = "much"', "backends.front.memory: expected a size"),
        ('restart_policy = "somtimes"', "backends.front.restart_policy: unknown restart policy 'somtimes'"),
    ],
)
def test_a_relation_that_cannot_be_meant_is_named(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems(
        tmp_path,
        f"""
        [groups.pair]
        restart = "one-for-all"
        [backends.vectors]
        command = {PYTHON}
        replicas = 2
        [backends.front]
        command = {PYTHON}
        {text}
        """,
    )
    assert found.startswith(problem)


def test_a_circle_of_needs_is_shown(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "".join(
            f'[backends.{name}]\ncommand = {PYTHON}\nneeds = ["{need}"]\n'
            for name, need in (("a", "b"), ("b", "c"), ("c", "a"))
        ),
    )
    assert found == ["backends: backends that need each other in a circle can never start: a#0 -> b#0 -> c#0 -> a#0"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("max_running = 0", "max_running: expected a whole number, at least 1 (got 0)"),
        ('memory_budget = "-1GB"', "memory_budget: expected a size"),
        ('[groups.pair]\nrestart = "all"', "groups.pair.restart: expected one of"),
        ("[groups.pair]\nrestrat = 1", "groups.pair.restrat: unknown key; did you mean 'restart'?"),
    ],
)
def test_a_setting_for_all_that_cannot_be_meant_is_named(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems(tmp_path, f"{text}\n[backends.a]\ncommand = {PYTHON}")
    assert found.replace("['pair']", ".pair").startswith(problem)


# ---- in a run


async def test_a_backend_that_is_killed_comes_back_and_what_is_bound_to_it_follows(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"""
        restart_policy = {HASTY}
        [backends.base]
        {SERVES}
        {TCP}
        [backends.bound]
        {SERVES}
        {TCP}
        needs = ["base"]
        bind = true
        """,
    )
    with trio.fail_after(60):
        async with running("run", "-c", path, env=environment(tmp_path)) as run:
            await run.says("stderr", "bound#0 is ready")
            os.kill(pid_of(await run.says("stderr", "base#0 is ready")), signal.SIGKILL)
            await run.says("stderr", "bound#0 stops: what it needs has failed")
            await run.says("stderr", "base#0 is started again in")
            await run.says("stderr", "base#0 is ready", times=2)
            await run.says("stderr", "bound#0 is ready", times=2)
            run.process.send_signal(signal.SIGTERM)
            assert await run.process.wait() == 0
    said = run.stderr.decode()
    assert said.index("bound#0 stops: shutdown") < said.index("base#0 stops: shutdown")


async def test_one_that_is_given_up_makes_the_run_fail_at_its_end(tmp_path: Path) -> None:
    path = write(tmp_path, f"[backends.broken]\n{DIES}\n{TCP}\nrestart_policy = {HASTY}")
    with trio.fail_after(60):
        async with running("run", "-c", path, env=environment(tmp_path)) as run:
            await run.says("stderr", "broken#0 is given up: 2 failed starts in a row")
            await run.says("stderr", "nothing is running any more")
            run.process.send_signal(signal.SIGINT)
            assert await run.process.wait() == 1
            await run.says("stderr", "failed: broken#0")


async def test_a_significant_one_that_ends_for_good_ends_the_run(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"""
        [backends.other]
        {SERVES}
        {TCP}
        [backends.heart]
        {SERVES}
        {TCP}
        needs = ["other"]
        significant = true
        """,
    )
    with trio.fail_after(60):
        async with running("run", "-c", path, env=environment(tmp_path)) as run:
            os.kill(pid_of(await run.says("stderr", "heart#0 is ready")), signal.SIGKILL)
            assert await run.process.wait() == 1
            await run.says("stderr", "a significant backend has ended: stopping everything")
            await run.says("stderr", "heart#0 is significant and has ended for good (killed by SIGKILL)")
            await run.says("stderr", "other#0 ended")


async def test_the_first_signal_after_the_end_of_a_significant_one_kills(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"""
        [backends.deaf]
        {command_of(sys.executable, "-m", "trio_sup.testing.backend", "--ignore-sigterm")}
        [backends.heart]
        {SERVES}
        {TCP}
        needs = ["deaf"]
        significant = true
        """,
    )
    with trio.fail_after(60):
        async with running("run", "-c", path, env=environment(tmp_path)) as run:
            os.kill(pid_of(await run.says("stderr", "heart#0 is ready")), signal.SIGKILL)
            await run.says("stderr", "stopping everything; Ctrl-C or SIGTERM to do it without grace")
            run.process.send_signal(signal.SIGTERM)
            await run.says("stderr", "SIGTERM: killing everything")
            assert await run.process.wait() == 1


async def test_one_that_does_not_start_by_itself_is_started_as_a_need(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"""
        [backends.lazy]
        {SERVES}
        {TCP}
        autostart = false
        [backends.unused]
        {SERVES}
        {TCP}
        autostart = false
        [backends.eager]
        {SERVES}
        {TCP}
        needs = ["lazy"]
        """,
    )
    with trio.fail_after(60):
        async with running("run", "-c", path, env=environment(tmp_path)) as run:
            await run.says("stderr", "eager#0 is ready")
            run.process.send_signal(signal.SIGTERM)
            assert await run.process.wait() == 0
    said = run.stderr.decode()
    assert said.index("lazy#0 is ready") < said.index("eager#0 starts as pid")
    assert "unused" not in said


async def test_it_says_that_nothing_starts_by_itself(tmp_path: Path) -> None:
    path = write(tmp_path, f"[backends.lazy]\n{SERVES}\nautostart = false")
    with trio.fail_after(60):
        async with running("run", "-c", path, env=environment(tmp_path)) as run:
            await run.says("stderr", "no backend starts by itself")
            run.process.send_signal(signal.SIGTERM)
            assert await run.process.wait() == 0


async def test_ctrl_c_during_a_backoff_does_not_wait_for_it(tmp_path: Path) -> None:
    slow = '{ strategy = "on-failure", delay = "20s", jitter = 0 }'
    path = write(tmp_path, f"[backends.broken]\n{DIES}\n{TCP}\nrestart_policy = {slow}")
    with trio.fail_after(15):
        async with running("run", "-c", path, env=environment(tmp_path)) as run:
            await run.says("stderr", "broken#0 is started again in 20.0 s: exit code 3")
            run.process.send_signal(signal.SIGINT)
            await run.process.wait()
