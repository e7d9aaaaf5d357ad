"""`trio-sup check`, as a real process."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.runner.distributions import environment_with, install
from tests.runner.running import TRIO_SUP, command_of

POLICIES = """
import attrs
from trio_sup import hookimpl
from trio_sup.strategies import GiveUp, RestartAfter

@attrs.frozen
class Linear:
    step: float = 1.0

    def decide(self, ends, rng):
        return RestartAfter(self.step * len(ends) * rng.uniform(0.5, 1.5))

@attrs.frozen
class Once:
    def decide(self, ends, rng):
        return RestartAfter(3) if len(ends) == 1 else None

@attrs.frozen
class Raises:
    def decide(self, ends, rng):
        return 1 / 0

@attrs.frozen
class Talks:
    def decide(self, ends, rng):
        return "soon"

@hookimpl
def trio_sup_restart_policies():
    return {"linear": Linear, "once": Once, "raises": Raises, "talks": Talks}
"""

CONFIG = f"""
stop_policy = "terminate"
restart_policy = "on-failure"

[backends.chat]
{command_of("sh", "-c", "exit 3")}
replicas = 2
readiness = {{ probe = "tcp" }}

[backends.many]
{command_of("sh")}
model = "big one"
replicas = 1000
stop_policy = "kill"
restart_policy = {{ strategy = "always", limit = 0, max_start_failures = 0 }}

[backends.batch]
{command_of("sh")}
restart_policy = {{ strategy = "on-failure", delay = 0, limit = 20, max_start_failures = 1 }}

[backends.once]
{command_of("sh")}
restart_policy = "never"
"""


def check(tmp_path: Path, config: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "trio-sup.toml").write_text(config)
    return subprocess.run(
        [*TRIO_SUP, "check", *arguments],
        env=environment_with(tmp_path, **more), cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def shown(tmp_path: Path, config: str, *arguments: str, **more: str) -> str:
    done = check(tmp_path, config, *arguments, **more)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def documented(tmp_path: Path, config: str, *arguments: str, **more: str) -> dict[str, Any]:
    document = json.loads(shown(tmp_path, config, "--json", *arguments, **more))
    return {backend["name"]: backend for backend in document["backends"]}


def test_each_backend_is_told_with_when_it_is_restarted_and_given_up(tmp_path: Path) -> None:
    assert shown(tmp_path, CONFIG).splitlines() == [
        "trio-sup.toml: 4 backends, 1004 processes",
        "",
        "chat (chat#0, chat#1)",
        "  command         sh -c 'exit 3'",
        "  probe           tcp",
        "  stop policy     terminate",
        "  restart policy  on-failure",
        "    failed starts restarts after 0.5 s, 1 s, 2 s, 4 s; gives up after 7.5 s of waiting: "
        "5 failed starts in a row",
        "    crashes       restarts after 0.5 s, 1 s, 2 s, 4 s, 8 s; gives up after 15.5 s of waiting: "
        "more than 5 restarts within 5 min",
        "    successes     left ended",
        "",
        "many (big one#0, …, big one#999)",
        "  command         sh",
        "  probe           localai",
        "  stop policy     kill",
        "  restart policy  always",
        "    failed starts restarts after 0.5 s, 1 s, 2 s, 4 s, 8 s, 16 s, then every 30 s; never gives up",
        "    crashes       restarts after 0.5 s, 1 s, 2 s, 4 s, 8 s, 16 s, then every 30 s; never gives up",
        "    successes     restarts after 0.5 s, 1 s, 2 s, 4 s, 8 s, 16 s, then every 30 s; never gives up",
        "",
        "batch (batch#0)",
        "  command         sh",
        "  probe           localai",
        "  stop policy     terminate",
        "  restart policy  on-failure",
        "    failed starts gives up at once: 1 failed start in a row",
        "    crashes       restarts after 0 s (20 times); gives up after 0 s of waiting: "
        "more than 20 restarts within 5 min",
        "    successes     left ended",
        "",
        "once (once#0)",
        "  command         sh",
        "  probe           localai",
        "  stop policy     terminate",
        "  restart policy  never",
    ]


def test_programs_get_one_document(tmp_path: Path) -> None:
    found = documented(tmp_path, CONFIG)
    assert found["chat"] == {
        "name": "chat",
        "keys": ["chat#0", "chat#1"],
        "release": None,
        "command": ["sh", "-c", "exit 3"],
        "probe": "tcp",
        "stop_policy": "terminate",
        "restart_policy": "on-failure",
        "restarts": {
            "failed_starts": {
                "delays": [{"seconds": delay, "times": 1} for delay in (0.5, 1, 2, 4)],
                "waiting": 7.5,
                "then": "given up",
                "why": "5 failed starts in a row",
            },
            "crashes": {
                "delays": [{"seconds": delay, "times": 1} for delay in (0.5, 1, 2, 4, 8)],
                "waiting": 15.5,
                "then": "given up",
                "why": "more than 5 restarts within 5 min",
            },
            "successes": {"delays": [], "waiting": 0, "then": "left ended", "why": None},
        },
    }
    endless = found["many"]["restarts"]["crashes"]
    assert (endless["waiting"], endless["then"], endless["why"]) == (None, "goes on", None)
    assert endless["delays"][-1]["seconds"] == 30
    assert found["once"]["restarts"]["crashes"]["then"] == "left ended"


def test_nothing_is_started_and_nothing_is_written(tmp_path: Path) -> None:
    shown(tmp_path, f"[backends.chat]\n{command_of('touch', tmp_path / 'was-started')}")
    assert [path.name for path in tmp_path.iterdir()] == ["trio-sup.toml"]


def test_every_policy_is_played_without_chance_and_told_in_one_line(tmp_path: Path) -> None:
    install(tmp_path / "site", "policies", POLICIES)
    config = f"""
    [backends.slow]
    {command_of("sh")}
    restart_policy = {{ strategy = "linear", step = 2.5 }}
    [backends.twice]
    {command_of("sh")}
    restart_policy = "once"
    [backends.steady]
    {command_of("sh")}
    restart_policy = {{ strategy = "always", delay = "20s", factor = 1, limit = 0 }}
    """
    lines = shown(tmp_path, config).splitlines()
    assert (
        "    crashes       restarts after 2.5 s, 5 s, 7.5 s, 10 s, 12.5 s, 15 s, 17.5 s, 20 s, …, 41 min 40 s; "
        "never gives up" in lines
    )
    assert "    crashes       restarts after 3 s; then left ended" in lines
    assert "    crashes       restarts after 20 s each time; never gives up" in lines


def test_a_policy_that_cannot_decide_is_a_problem_of_each_backend_that_has_it(tmp_path: Path) -> None:
    install(tmp_path / "site", "policies", POLICIES)
    config = f"""
    restart_policy = "raises"
    [backends.a]
    {command_of("sh")}
    [backends.b]
    {command_of("sh")}
    [backends.c]
    {command_of("sh")}
    restart_policy = "talks"
    [backends.d]
    {command_of("sh")}
    restart_policy = "always"
    """
    done = check(tmp_path, config)
    assert (done.returncode, done.stdout) == (2, "")
    plugin = "plugin policies (trio-sup-policies 1.2)"
    raises = f"{plugin}: restart policy 'raises' cannot decide: ZeroDivisionError: division by zero"
    talks = f"{plugin}: restart policy 'talks' cannot decide: InvalidValue: expected RestartAfter, GiveUp or None"
    assert f"  backends.a.restart_policy: {raises}\n  backends.b.restart_policy: {raises}\n" in done.stderr
    assert f"  backends.c.restart_policy: {talks}" in done.stderr
    assert "backends.d" not in done.stderr


def test_all_problems_are_told_and_end_with_2(tmp_path: Path) -> None:
    done = check(tmp_path, f"nonsense = 1\nrestart_policy = 'alwas'\n{CONFIG.partition('on-failure')[2][1:]}grace = -1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nonsense: unknown key" in done.stderr
    assert "restart_policy: unknown restart policy 'alwas'" in done.stderr
    assert "did you mean 'always'?" in done.stderr
    assert "backends.once.grace: a duration must not be negative" in done.stderr


@pytest.mark.parametrize("arguments", [("-c", "missing.toml"), ("-p", "no_such_module")])
def test_what_run_refuses_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = check(tmp_path, CONFIG, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert arguments[1] in done.stderr
    assert "Traceback" not in done.stderr


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    found = documented(
        tmp_path, CONFIG, TRIO_SUP_RESTART_POLICY__MAX_START_FAILURES="2", TRIO_SUP_BACKENDS__CHAT__REPLICAS="3"
    )
    assert len(found["chat"]["keys"]) == 3
    assert found["chat"]["restarts"]["failed_starts"]["why"] == "2 failed starts in a row"


def test_a_variable_that_spoils_a_policy_is_named(tmp_path: Path) -> None:
    done = check(tmp_path, CONFIG, TRIO_SUP_RESTART_POLICY__DELAY="1m")
    assert done.returncode == 2
    assert "restart_policy.max_delay: must not be below delay (1 min)" in done.stderr
