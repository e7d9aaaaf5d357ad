"""What a backend finds when it runs: the launch is executed as the supervisor would."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from trio_sup_limits import Limits

from trio_sup import BackendSpec, InvalidValue, ProcessKey
from trio_sup.engine._command import TOKEN_VARIABLE
from trio_sup.guard._proc import MARKER
from trio_sup.strategies import Launch

TELLS = """
import json, os, resource, signal, sys
status = dict(line.rstrip("\\n").split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
print(json.dumps({
    "argv0": open("/proc/self/cmdline").read().split("\\0")[0], "pid": os.getpid(),
    "arguments": sys.argv[1:], "nice": os.getpriority(os.PRIO_PROCESS, 0), "cpus": sorted(os.sched_getaffinity(0)),
    "umask": os.umask(0), "no_new_privileges": status["NoNewPrivs"],
    "limits": {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
               for name in ("NOFILE", "CORE", "STACK", "AS")},
    "environment": open("/proc/self/environ").read().split("\\0")[:-1],
}))
"""
# A C library may add to os.environ at start; what was handed over is what counts. No Python variable may steer it.
ENVIRONMENT = {"PATH": os.environ["PATH"], "A": "1", "LC_X": "2", MARKER: "outer/1", TOKEN_VARIABLE: "s3cret"}


def launch_of(*arguments: str, env: Mapping[str, str] | None = None, **fields: Any) -> Launch:
    spec = BackendSpec(name="b", command=["b"], env=env or {})
    fields.setdefault("executable", sys.executable)
    fields.setdefault("environment", {**ENVIRONMENT, **spec.env})
    return Launch(key=ProcessKey("b"), spec=spec, arguments=arguments, cwd=None, port=1, **fields)


def run(limits: Limits, launch: Launch) -> subprocess.CompletedProcess[str]:
    limits.check(launch.spec)
    prepared = limits.prepare(launch)
    return subprocess.run(
        prepared.arguments,
        executable=prepared.executable,
        env=prepared.environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


def told(limits: Limits, *arguments: str, **fields: Any) -> dict[str, Any]:
    done = run(limits, launch_of("own name", "-I", "-S", "-c", TELLS, *arguments, **fields))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_everything_asked_for_is_in_effect() -> None:
    cpu = min(os.sched_getaffinity(0))
    nice = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3)
    found = told(
        Limits(
            nofile=[100, 128],
            core=0,
            stack=["4MiB", "8MiB"],
            address_space="3GiB",
            nice=nice,
            cpus=[cpu],
            umask="027",
            no_new_privileges=True,
        )
    )
    assert found["limits"] == {
        "NOFILE": [100, 128],
        "CORE": [0, 0],
        "STACK": [4 << 20, 8 << 20],
        "AS": [3 << 30, 3 << 30],
    }
    assert (found["nice"], found["cpus"], found["umask"]) == (nice, [cpu], 0o027)
    assert found["no_new_privileges"] == "1"


def test_without_options_nothing_changes() -> None:
    found = told(Limits(), "an argument", "--", "")
    direct = subprocess.run(
        ["own name", "-I", "-S", "-c", TELLS, "an argument", "--", ""],
        executable=sys.executable,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    expected = json.loads(direct.stdout)
    assert found.pop("pid") != expected.pop("pid")
    assert found == expected
    assert found["argv0"] == "own name"
    assert found["arguments"] == ["an argument", "--", ""]


def test_no_signal_is_left_ignored() -> None:
    launch = launch_of("sh", "-c", "grep SigIgn: /proc/self/status", executable="/bin/sh")
    _, ignored = run(Limits(), launch).stdout.split()
    of_the_c_library = 0b11 << 31  # 32 and 33, which Python 3.13 hands on ignored, and nobody can change
    assert int(ignored, 16) & ~of_the_c_library == 0


def test_the_process_stays_the_same() -> None:
    prepared = Limits(core=0).prepare(launch_of("own name", "-I", "-S", "-c", TELLS))
    with subprocess.Popen(
        prepared.arguments, executable=prepared.executable, env=prepared.environment, stdout=subprocess.PIPE
    ) as process:
        output, _ = process.communicate(timeout=30)
        assert json.loads(output)["pid"] == process.pid


def test_a_backend_that_cannot_be_executed_ends_with_one_clear_line() -> None:
    missing = run(Limits(core=0), launch_of("x", executable="/no/such/program"))
    assert missing.returncode == 127
    assert missing.stderr == "trio-sup-limits: cannot execute /no/such/program: No such file or directory\n"
    refused = run(Limits(core=0), launch_of("x", executable="/etc/passwd"))
    assert refused.returncode == 126
    assert refused.stderr == "trio-sup-limits: cannot execute /etc/passwd: Permission denied\n"


def test_a_step_that_is_refused_ends_with_one_clear_line() -> None:
    prepared = Limits(core=0).prepare(launch_of("x"))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    steps = json.dumps({"rlimits": {"RLIMIT_NOFILE": [soft, most + 1]}})
    arguments = [steps if argument.startswith("{") else argument for argument in prepared.arguments]
    done = subprocess.run(arguments, executable=prepared.executable, capture_output=True, text=True, timeout=30)
    assert done.returncode == 126
    assert done.stderr.startswith("trio-sup-limits: cannot set RLIMIT_NOFILE: ")
    assert done.stderr.count("\n") == 1


# ---- environment


def names(limits: Limits, **fields: Any) -> set[str]:
    return set(limits.prepare(launch_of("b", **fields)).environment)


def test_the_environment_is_kept_by_default() -> None:
    assert names(Limits()) == set(ENVIRONMENT)


def test_only_what_matches_is_kept() -> None:
    assert names(Limits(keep_env=["PATH"])) == {"PATH", MARKER, TOKEN_VARIABLE}


def test_what_matches_is_dropped_even_if_it_was_kept() -> None:
    assert names(Limits(keep_env=["A", "LC_*"], drop_env=["LC_?"])) == {"A", MARKER, TOKEN_VARIABLE}


def test_patterns_mind_the_case() -> None:
    assert "A" in names(Limits(drop_env=["a"]))


def test_what_was_set_by_name_is_dropped_by_name_only() -> None:
    assert "SET" in names(Limits(keep_env=[], drop_env=["*"]), env={"SET": "1"})
    assert "SET" not in names(Limits(drop_env=["SET"]), env={"SET": "1"})
    assert TOKEN_VARIABLE in names(Limits(keep_env=[], drop_env=["*"]))
    assert TOKEN_VARIABLE not in names(Limits(drop_env=[TOKEN_VARIABLE]))


def test_the_marker_is_never_dropped() -> None:
    environment = {MARKER: "outer/1", "SPT_NOENV": "1"}
    limits = Limits(keep_env=[], drop_env=["*", MARKER, "SPT_NOENV"])
    assert limits.prepare(launch_of("b", environment=environment)).environment == environment


def test_the_token_is_not_in_the_arguments() -> None:
    assert "s3cret" not in " ".join(Limits(core=0).prepare(launch_of("b")).arguments)


# ---- other users


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_another_user_brings_its_groups_and_leaves_no_privilege() -> None:
    launch = launch_of("sh", "-c", "grep -E '^(Uid|Gid|Groups|CapEff):' /proc/self/status", executable="/bin/sh")
    done = run(Limits(user="nobody"), launch)
    lines = dict(line.split(":") for line in done.stdout.splitlines())
    assert set(lines["Uid"].split()) == {"65534"}
    assert set(lines["Gid"].split()) == {"65534"}
    assert lines["Groups"].split() == ["65534"]
    assert int(lines["CapEff"], 16) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give up being root")
def test_another_user_is_refused_where_it_could_not_be_controlled() -> None:
    program = """
import sys
from trio_sup import BackendSpec, InvalidValue
from trio_sup_limits import Limits
for options in ({"user": "nobody"}, {"group": 65534}):
    try:
        Limits(**options).check(BackendSpec(name="b", command=["b"]))
    except InvalidValue as error:
        print(error)
"""
    for without, complaint in (("kill", "CAP_KILL to end"), ("sys_ptrace", "CAP_SYS_PTRACE to see")):
        done = subprocess.run(
            ["setpriv", "--bounding-set", f"-{without}", sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
        )
        user, group = done.stdout.splitlines()
        assert user.startswith("user: the supervisor could not start, see and end")
        assert group.startswith("group: ")
        assert complaint in user
        assert complaint in group


def test_a_check_looks_at_limits_this_process_may_not_raise() -> None:
    program = """
import resource
from trio_sup import BackendSpec, InvalidValue
from trio_sup_limits import Limits
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for options in ({"core": "unlimited"}, {"core": 1}, {"core": 0}, {"nice": -1}):
    try:
        Limits(**options).check(BackendSpec(name="b", command=["b"]))
    except InvalidValue as error:
        print(error)
"""
    lesser = ["setpriv", "--bounding-set", "-sys_resource,-sys_nice"] if os.geteuid() == 0 else []
    done = subprocess.run([*lesser, sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("core: the hard limit of this process is 0")
    assert lines[1].startswith("core: the hard limit of this process is 0")
    assert lines[2].startswith(f"nice: this process may not go below {os.getpriority(os.PRIO_PROCESS, 0)}")
    assert len(lines) == 3


def test_a_value_that_is_refused_is_in_the_error() -> None:
    with pytest.raises(InvalidValue) as caught:
        Limits(nice=99)
    assert attrs.asdict(caught.value)["value"] == 99
