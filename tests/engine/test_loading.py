"""Loading plugins inside this process; whole commands are tried in tests/runner/test_plugins_command.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.runner.distributions import POLICY, install
from trio_sup import Choice, open_supervisor
from trio_sup.engine._loading import NO_AUTOLOAD, load_plugins
from trio_sup.engine._plugins import LoadedPlugin, PluginError, Plugins
from trio_sup.testing import FakeSystem

OFF = {NO_AUTOLOAD: "1"}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(site)
    before = set(sys.modules)
    yield site
    for name in set(sys.modules) - before:
        if name.endswith("_plugin"):
            del sys.modules[name]


async def test_loaded_plugins_are_given_to_a_supervisor_as_they_are(site: Path) -> None:
    install(site, "policy", POLICY)
    loaded = load_plugins(["policy"], environ=OFF)
    assert [(one.name, one.distribution, one.version) for one in loaded.plugins] == [
        ("policy", "trio-sup-policy", "1.2")
    ]
    assert loaded.problems == ()
    with trio.fail_after(10):
        async with open_supervisor(plugins=loaded.plugins, stop_policy="gently", system=FakeSystem()) as supervisor:
            assert supervisor.backends == ()


def test_errors_later_on_say_which_distribution_they_come_from(site: Path) -> None:
    install(site, "policy", POLICY.replace('"gently": Gently', '"gently": lambda: 3'))
    plugins = Plugins(load_plugins(["policy"], environ=OFF).plugins)
    with pytest.raises(PluginError, match=r"plugin policy \(trio-sup-policy 1\.2\): made 3") as caught:
        plugins.make("stop policy", Choice("gently"))
    assert (caught.value.distribution, caught.value.version) == ("trio-sup-policy", "1.2")


def test_a_required_plugin_that_is_not_there_is_a_problem() -> None:
    (problem,) = load_plugins(required=["missing"], environ=OFF).problems
    assert problem.required
    assert str(problem) == "plugin missing: is required, and was not loaded"


def test_what_is_asked_for_and_disabled_is_a_problem() -> None:
    (problem,) = load_plugins(["missing"], disabled=["missing"], environ=OFF).problems
    assert problem.required
    assert "asked for and disabled" in problem.why


def test_a_newer_copy_further_back_on_the_path_does_not_count(site: Path, tmp_path: Path) -> None:
    install(site, "policy", POLICY)
    install(tmp_path / "behind", "policy", POLICY, version="9")
    sys.path.append(str(tmp_path / "behind"))
    try:
        (found,) = load_plugins(["policy"], environ=OFF).plugins
    finally:
        sys.path.remove(str(tmp_path / "behind"))
    assert found.version == "1.2"


def test_an_interrupt_during_an_import_is_no_plugin_problem(site: Path) -> None:
    install(site, "policy", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_plugins(["policy"], environ=OFF)


def test_a_plugin_without_known_origin_is_named_alone() -> None:
    class Newer:
        trio_sup_hook_version = 99

    with pytest.raises(PluginError, match="plugin mine: was built for version 99"):
        Plugins([LoadedPlugin("mine", Newer())])
