"""`trio-sup plugins`, and plugins in the other commands: real processes, throw-away distributions."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.runner.distributions import POLICY, environment_with, install
from tests.runner.running import TALKS, TCP, TRIO_SUP, command_of, running

CONFIG = f"""
stop_policy = "gently"
[backends.chat]
{command_of("python3", TALKS)}
{TCP}
"""
WITHOUT_PLUGIN = CONFIG.replace('stop_policy = "gently"', "")

BROKEN = {
    "unimportable": "1 / 0",
    "leaves": "raise SystemExit(7)",
    "worse": "class Worse(BaseException): pass\nraise Worse",
    "mute": "class Mute(Exception):\n def __str__(self): return self.no_detail\nraise Mute",
    "syntax": "def (",
    "misspelt": "from trio_sup import hookimpl\n@hookimpl\ndef trio_sup_stop_polices(): return {}",
    "raising": "from trio_sup import hookimpl\n@hookimpl\ndef trio_sup_probes(): raise OSError('no device')",
    "exiting": "from trio_sup import hookimpl\n@hookimpl\ndef trio_sup_probes(): raise SystemExit(3)",
    "async": "from trio_sup import hookimpl\n@hookimpl\nasync def trio_sup_probes(): return {}",
    "unmarked": "def trio_sup_probes(): return {}",
    "nonsense": "from trio_sup import hookimpl\n@hookimpl\ndef trio_sup_probes(): return 3",
    "newer": "trio_sup_hook_version = 99",
}
WHY = {
    "unimportable": "cannot be imported: ZeroDivisionError: division by zero",
    "leaves": "cannot be imported: SystemExit(7) (",
    "worse": "cannot be imported: Worse() (",
    "mute": "cannot be imported: Mute, which cannot be shown (",
    "syntax": "cannot be imported: SyntaxError",
    "misspelt": "there is no hook 'trio_sup_stop_polices'; did you mean 'trio_sup_stop_policies'?",
    "raising": "its hook trio_sup_probes raised OSError('no device')",
    "exiting": "its hook trio_sup_probes raised SystemExit(3)",
    "async": "its hook trio_sup_probes is asynchronous, and has to be a plain function",
    "unmarked": "its trio_sup_probes lacks the mark @hookimpl, and would never be called",
    "nonsense": "its hook trio_sup_probes returned 3",
    "newer": "was built for version 99 of the hooks; this trio-sup has version 1",
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "site"


def call(tmp_path: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TRIO_SUP, *arguments],
        env=environment_with(tmp_path, **more), cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def configure(tmp_path: Path, text: str) -> None:
    (tmp_path / "trio-sup.toml").write_text(text)


def listing(tmp_path: Path, *arguments: str, status: int = 0, **more: str) -> Any:
    done = call(tmp_path, "plugins", "--json", *arguments, **more)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


# ---- the list


def test_the_list_says_what_is_offered_and_what_is_in_use(tmp_path: Path, site: Path) -> None:
    install(site, "policy", POLICY)
    configure(tmp_path, CONFIG)
    plugins = {entry["name"]: entry for entry in listing(tmp_path)["plugins"]}
    assert plugins["policy"] == {
        "name": "policy",
        "distribution": "trio-sup-policy",
        "version": "1.2",
        "hooks": ["trio_sup_stop_policies"],
        "offers": {"trio_sup_stop_policies": ["gently"]},
        "in_use": {"trio_sup_stop_policies": ["gently"]},
    }
    built_in = plugins["trio_sup.defaults._probes"]
    assert built_in["distribution"] == "trio-sup"
    assert built_in["in_use"] == {"trio_sup_probes": ["tcp"]}


def test_the_table_has_aligned_columns(tmp_path: Path, site: Path) -> None:
    install(site, "policy", POLICY)
    configure(tmp_path, CONFIG)
    done = call(tmp_path, "plugins")
    assert (done.returncode, done.stderr) == (0, "")
    head, *rows = done.stdout.splitlines()
    (row,) = [row for row in rows if row.startswith("policy ")]
    cells = {column: row[head.index(column) :].split("  ")[0] for column in ("FROM", "HOOK", "OFFERS", "IN USE")}
    assert cells == {"FROM": "trio-sup-policy 1.2", "HOOK": "stop_policies", "OFFERS": "gently", "IN USE": "gently"}


def test_without_a_configuration_nothing_is_said_about_use(tmp_path: Path) -> None:
    assert {entry["in_use"] for entry in listing(tmp_path)["plugins"]} == {None}
    assert "IN USE" not in call(tmp_path, "plugins").stdout


def test_a_configuration_that_is_given_must_be_there(tmp_path: Path) -> None:
    done = call(tmp_path, "plugins", "-c", "missing.toml")
    assert done.returncode == 1
    assert "missing.toml" in done.stderr
    assert "affinity" in done.stdout


# ---- broken ones


def test_each_broken_plugin_is_named_with_its_origin_and_spoils_no_other(tmp_path: Path, site: Path) -> None:
    for name, source in BROKEN.items():
        install(site, name, source)
    install(site, "policy", POLICY)
    document = listing(tmp_path, status=1)
    assert "policy" in [entry["name"] for entry in document["plugins"]]
    problems = {problem["name"]: problem for problem in document["problems"]}
    assert problems.keys() == BROKEN.keys()
    for name, why in WHY.items():
        assert problems[name]["why"].startswith(why)
        assert (problems[name]["distribution"], problems[name]["version"]) == (f"trio-sup-{name}", "1.2")
    shown = call(tmp_path, "plugins").stdout
    assert "  plugin newer (trio-sup-newer 1.2): was built for version 99" in shown


def test_metadata_that_cannot_be_read_is_named_and_spoils_nothing(tmp_path: Path, site: Path) -> None:
    install(site, "policy", POLICY)
    install(site, "torn", "")
    (site / "trio_sup_torn-1.2.dist-info" / "entry_points.txt").write_text("[trio_sup]\ntorn\n")
    document = listing(tmp_path, status=1)
    assert "policy" in [entry["name"] for entry in document["plugins"]]
    assert [problem["name"] for problem in document["problems"]] == ["trio-sup-torn"]


def test_two_distributions_with_one_name_are_both_named_and_one_can_be_left_out(tmp_path: Path, site: Path) -> None:
    install(site, "policy", POLICY)
    install(site, "other", POLICY, version="2", entry="policy")
    (problem,) = listing(tmp_path, status=1)["problems"]
    assert "trio-sup-policy 1.2" in problem["why"]
    assert "trio-sup-other 2" in problem["why"]
    found = {entry["name"]: entry for entry in listing(tmp_path, "-p", "no:trio-sup-other")["plugins"]}
    assert found["policy"]["distribution"] == "trio-sup-policy"


# ---- choosing


def test_autoload_can_be_switched_off_and_names_still_load(tmp_path: Path, site: Path) -> None:
    install(site, "policy", POLICY)
    install(site, "newer", BROKEN["newer"])

    def names(*arguments: str) -> set[str]:
        found = listing(tmp_path, *arguments, TRIO_SUP_DISABLE_PLUGIN_AUTOLOAD="1")["plugins"]
        return {entry["name"] for entry in found if not entry["name"].startswith("trio_sup.defaults.")}

    assert names() == set()
    assert names("-p", "policy") == {"policy"}
    assert names("-p", "policy_plugin") == {"policy_plugin"}


def test_a_name_is_left_out_with_no(tmp_path: Path, site: Path) -> None:
    install(site, "policy", POLICY)
    install(site, "newer", BROKEN["newer"])
    document = listing(tmp_path, "-p", "no:policy", "-p", "no:newer")
    assert "policy" not in [entry["name"] for entry in document["plugins"]]
    assert document["problems"] == []


def test_a_module_loaded_by_both_of_its_names_is_one_plugin(tmp_path: Path, site: Path) -> None:
    install(site, "policy", POLICY)
    names = [entry["name"] for entry in listing(tmp_path, "-p", "policy_plugin")["plugins"]]
    assert names.count("policy") == 1
    assert "policy_plugin" not in names


@pytest.mark.parametrize("name", ["newer", "no_such_module"])
def test_run_ends_with_2_without_a_plugin_asked_for(tmp_path: Path, site: Path, name: str) -> None:
    install(site, "newer", BROKEN["newer"])
    configure(tmp_path, WITHOUT_PLUGIN)
    done = call(tmp_path, "run", "-p", name)
    assert done.returncode == 2
    assert f"plugin {name}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "why"), [("newer", "version 99"), ("missing", "there is no plugin 'missing'")])
def test_run_ends_with_2_without_a_plugin_the_configuration_requires(
    tmp_path: Path, site: Path, name: str, why: str
) -> None:
    install(site, "newer", BROKEN["newer"])
    configure(tmp_path, f'required_plugins = ["{name}"]\nnonsense = 1\n{WITHOUT_PLUGIN}')
    done = call(tmp_path, "run")
    assert done.returncode == 2
    assert "nonsense: unknown key" in done.stderr
    assert "  required_plugins[0]: " in done.stderr
    assert why in done.stderr


# ---- running


@pytest.mark.usefixtures("nothing_of_it_survives")
async def test_run_uses_plugins_and_warns_of_those_it_cannot_use(tmp_path: Path, site: Path) -> None:
    install(
        site,
        "watcher",
        """
import sys
import attrs
from trio_sup import hookimpl

@attrs.frozen(kw_only=True)
class Watching:
    word: str = "saw"

@hookimpl
def trio_sup_config_sections():
    return {"watching": Watching}

@hookimpl
def trio_sup_observers(sections):
    return [lambda event: print(sections["watching"].word, type(event).__name__, file=sys.stderr)]
""",
    )
    install(
        site,
        "late",
        "from trio_sup import hookimpl\n@hookimpl\ndef trio_sup_services(sections): raise OSError('no socket')",
    )
    install(site, "policy", POLICY)
    install(site, "newer", BROKEN["newer"])
    configure(tmp_path, f'watching = {{ word = "noticed" }}\n{CONFIG}')
    with trio.fail_after(30):
        async with running("run", "-c", str(tmp_path / "trio-sup.toml"), env=environment_with(tmp_path)) as run:
            await run.says("stderr", "warning: plugin newer (trio-sup-newer 1.2): was built for version 99")
            await run.says("stderr", "warning: plugin late (trio-sup-late 1.2): its hook trio_sup_services raised")
            await run.says("stderr", "noticed BackendReady")


# ---- commands

HELLO = """
from trio_sup import hookimpl

def hello(name: str = "world", *, times: int = 1) -> int:
    \"\"\"Greet somebody.\"\"\"
    if times < -1:
        raise type("Mute", (Exception,), {"__str__": lambda self: self.no_detail})
    if times < 0:
        raise ValueError("no greeting is negative")
    print("hello " * times + name)
    return 5 if times > 1 else None

@hookimpl
def trio_sup_commands():
    return {"hello": hello, "run": hello, "--version": hello, "odd": print}
"""


def test_a_command_of_a_plugin_is_one_of_trio_sup(tmp_path: Path, site: Path) -> None:
    install(site, "greeting", HELLO)
    assert "Greet somebody." in call(tmp_path, "--help").stdout
    assert "--times" in call(tmp_path, "hello", "--help").stdout
    done = call(tmp_path, "hello", "you")
    assert (done.returncode, done.stdout) == (0, "hello you\n")
    assert call(tmp_path, "hello", "--times", "2").returncode == 5
    wrong = call(tmp_path, "hello", "--times", "x")
    assert wrong.returncode == 2
    assert "See `trio-sup hello --help`" in wrong.stderr


def test_an_async_command_is_run_by_trio(tmp_path: Path, site: Path) -> None:
    source = """
        import trio
        from trio_sup import hookimpl

        async def wait(*, seconds: float) -> int:
            with trio.move_on_after(seconds) as scope:
                await trio.sleep_forever()
            return 6 if scope.cancelled_caught else 0

        @hookimpl
        def trio_sup_commands():
            return {"wait": wait}
    """
    install(site, "waiting", textwrap.dedent(source))
    done = call(tmp_path, "wait", "--seconds", "0.01")
    assert (done.returncode, done.stderr) == (6, "")


def test_a_command_that_raises_is_named_with_its_plugin(tmp_path: Path, site: Path) -> None:
    install(site, "greeting", HELLO)
    done = call(tmp_path, "hello", "--times", "-1")
    assert done.returncode == 1
    failed = "plugin greeting (trio-sup-greeting 1.2): its command 'hello' failed: "
    assert f"{failed}ValueError: no greeting" in done.stderr
    assert "Traceback" not in done.stderr
    assert f"trio-sup: {failed}Mute, which cannot be shown (" in call(tmp_path, "hello", "--times", "-2").stderr


def test_a_command_with_a_name_of_ours_is_refused_and_named(tmp_path: Path, site: Path) -> None:
    install(site, "greeting", HELLO)
    problems = [problem["why"] for problem in listing(tmp_path, status=1)["problems"]]
    assert "its command 'run' is left out: trio-sup has one of that name" in problems
    assert any(why.startswith("its command '--version' is left out") for why in problems)
    assert "Run the configured backends" in call(tmp_path, "run", "--help").stdout
    assert call(tmp_path, "--version").stdout == "trio-sup 0.1.0\n"


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("demo", "--help"), ("--version",)])
def test_help_does_not_break_because_of_bad_plugins(tmp_path: Path, site: Path, arguments: tuple[str, ...]) -> None:
    for name, source in BROKEN.items():
        install(site, name, source)
    done = call(tmp_path, *arguments)
    assert done.returncode == 0
    assert "trio-sup" in done.stdout
    assert "Traceback" not in done.stderr


def test_whoever_has_seen_enough_of_the_list_hears_no_complaint() -> None:
    command = [sys.executable, "-m", "trio_sup", "plugins", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.close()
        assert listing.stderr.read() == ""
        assert listing.wait() == 1
