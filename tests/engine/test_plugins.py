"""What plugins offer, and what is said about those that offer nonsense."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import attrs
import pytest
import trio

from trio_sup import Choice, InvalidOptions, InvalidValue, UnknownStrategy, hookimpl
from trio_sup._values import to_choice
from trio_sup.defaults._exec_probe import ExecProbe
from trio_sup.defaults._file_lock import FileLock
from trio_sup.defaults._stop_policies import FreeThenTerminate, Terminate
from trio_sup.engine._plugins import Kind, PluginError, Plugins
from trio_sup.strategies import ProbeTarget


@attrs.frozen
class Always:
    times: int = 1
    label: str = "always"
    needs_listener = False
    speaks_grpc = False

    async def check(self, target: ProbeTarget) -> None:
        await trio.lowlevel.checkpoint()


class Offers:
    """A plugin whose probes hook answers with what it was given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    @hookimpl
    def trio_sup_probes(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


OFFERS = f"{__name__}.Offers"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("port strategy", {"affinity", "lifo", "ephemeral", "fixed"}),
        ("install lock", {"file", "memory"}),
        ("stop policy", {"free-then-terminate", "terminate", "kill", "drain"}),
        ("probe", {"localai", "grpc-health", "tcp", "http", "exec"}),
        ("warm-up", {"call", "load-model"}),
    ],
)
def test_the_built_ins_are_there(kind: Kind, names: set[str]) -> None:
    plugins = Plugins()
    assert plugins.offered(kind).keys() == names
    assert all(plugins.offered_by(kind, name).startswith("trio_sup.defaults.") for name in names)


def test_a_plugin_adds_and_replaces_whatever_the_order_of_names() -> None:
    plugins = Plugins([Offers({"tcp": Always, "always": Always})])
    assert isinstance(plugins.make("probe", Choice("tcp")), Always)
    assert plugins.offered_by("probe", "tcp") == OFFERS
    assert plugins.offered_by("probe", "http") == "trio_sup.defaults._probes"


def test_the_last_of_two_plugins_wins() -> None:
    first, second = Offers({"x": lambda: Always(1)}), Offers({"x": lambda: Always(2)})
    assert Plugins([first, second]).make("probe", Choice("x")) == Always(2)
    assert Plugins([second, first]).make("probe", Choice("x")) == Always(1)


def test_a_module_is_a_plugin() -> None:
    module = ModuleType("some_package.plugin")

    @hookimpl
    def trio_sup_probes() -> Any:
        return {"x": Always}

    module.trio_sup_probes = trio_sup_probes  # type: ignore[attr-defined]  # made here
    assert Plugins([module]).offered_by("probe", "x") == "some_package.plugin"


def test_managers_share_nothing() -> None:
    Plugins([Offers({"x": Always})])
    assert "x" not in Plugins().offered("probe")


def test_a_misspelt_hook_is_named_with_the_nearest_one() -> None:
    class Misspelt:
        @hookimpl
        def trio_sup_probe(self) -> Any:
            return {}

    with pytest.raises(PluginError) as caught:
        Plugins([Misspelt()])
    assert caught.value.plugin.endswith("Misspelt")
    assert "no hook 'trio_sup_probe'; did you mean 'trio_sup_probes'?" in str(caught.value)


def test_a_hook_with_unknown_arguments_is_refused() -> None:
    class Demands:
        @hookimpl
        def trio_sup_probes(self, moon: str) -> Any:
            return {}

    with pytest.raises(PluginError, match=r"(?s)Demands.*moon"):
        Plugins([Demands()])


@pytest.mark.parametrize("answer", [None, [], "localai", {1: Always}, {"": Always}, {"x": 3}, ValueError("broken")])
def test_a_hook_that_answers_nonsense_is_named(answer: Any) -> None:
    with pytest.raises(PluginError, match="trio_sup_probes") as caught:
        Plugins([Offers(answer)])
    assert caught.value.plugin == OFFERS


def test_what_is_no_plugin_is_refused() -> None:
    plugin = Offers({})
    with pytest.raises(PluginError, match="given twice"):
        Plugins([plugin, plugin])
    with pytest.raises(PluginError, match="None"):
        Plugins([None])
    with pytest.raises(PluginError, match="missing 1 required positional argument"):
        Plugins([Offers])  # the class instead of an object


# ---- making


def test_an_unknown_name_says_what_is_known() -> None:
    with pytest.raises(UnknownStrategy, match=r"unknown stop policy 'termnate'.*did you mean 'terminate'"):
        Plugins().make("stop policy", Choice("termnate"))
    with pytest.raises(UnknownStrategy):
        Plugins().offered_by("probe", "nope")


def test_options_are_structured() -> None:
    plugins = Plugins()
    assert plugins.make("stop policy", to_choice({"strategy": "free-then-terminate", "free_timeout": "1m"})) == (
        FreeThenTerminate(60)
    )
    assert plugins.make("stop policy", Choice("terminate")) == Terminate()
    assert plugins.make("install lock", Choice("file", directory="/tmp")) == FileLock("/tmp")
    assert plugins.make("probe", Choice("exec", command=["true"])) == ExecProbe(["true"])


def test_all_bad_options_are_told_at_once() -> None:
    plugins = Plugins([Offers({"always": Always})])
    with pytest.raises(InvalidOptions) as caught:
        plugins.make("probe", Choice("always", times="2", label=3, tims=1))
    assert sorted(caught.value.problems) == [
        "label: expected text (got 3)",
        "times: expected a whole number (got '2')",
        "tims: unknown key; did you mean 'times'?",
    ]
    assert (caught.value.kind, caught.value.name) == ("probe", "always")


@pytest.mark.parametrize(
    ("choice", "problem"),
    [
        (Choice("exec"), "command: missing"),
        (Choice("exec", command="true"), "command: a command is a list: the program and its arguments (got 'true')"),
        (Choice("http", status=7), "status: expected a status"),
        (Choice("http", port="80"), "port: expected a port from 1 to 65535 (got '80')"),
    ],
)
def test_a_bad_option_is_told_with_its_path(choice: Choice, problem: str) -> None:
    with pytest.raises(InvalidOptions) as caught:
        Plugins().make("probe", choice)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(problem)


def test_a_factory_that_is_a_function_gets_keyword_arguments() -> None:
    def make(times: int = 3) -> Always:
        if times < 0:
            raise InvalidValue(times, "must not be negative")
        return Always(times)

    plugins = Plugins([Offers({"x": make})])
    assert plugins.make("probe", Choice("x", times=5)) == Always(5)
    with pytest.raises(InvalidOptions, match="unexpected keyword argument 'time'"):
        plugins.make("probe", Choice("x", time=5))
    with pytest.raises(InvalidOptions, match=r"must not be negative \(got -1\)"):
        plugins.make("probe", Choice("x", times=-1))


def broken() -> Always:
    raise OSError("no such device")


@pytest.mark.parametrize(
    ("factory", "why"),
    [
        (broken, "no such device"),
        (sys.exit, "SystemExit()"),
        (lambda: 3, "no needs_listener, no speaks_grpc, no check()"),
        (lambda: None, "no check"),
    ],
)
def test_a_factory_that_fails_is_the_plugins_fault(factory: Callable[[], Any], why: str) -> None:
    with pytest.raises(PluginError, match=OFFERS) as caught:
        Plugins([Offers({"x": factory})]).make("probe", Choice("x"))
    assert why in str(caught.value)


def test_an_option_of_a_type_no_table_can_give_is_the_plugins_fault() -> None:
    @attrs.frozen
    class Odd:
        socket: trio.abc.Stream | int = 0

    with pytest.raises(PluginError, match=OFFERS):
        Plugins([Offers({"x": Odd})]).make("probe", Choice("x", socket=3))


def test_an_object_is_taken_as_it_is() -> None:
    probe = Always()
    assert Plugins().make("probe", probe) is probe


@pytest.mark.parametrize(
    ("kind", "value", "lacks"),
    [
        ("probe", 3, "no needs_listener, no speaks_grpc, no check()"),
        ("stop policy", Always(), "no budget(), no stop()"),
        ("port strategy", Always(), "no allocate(), no release()"),
        ("install lock", None, "no hold()"),
        ("probe", Always, "not been made yet"),
    ],
)
def test_an_object_of_another_shape_is_refused(kind: Kind, value: Any, lacks: str) -> None:
    with pytest.raises(InvalidValue, match=f"expected a {kind}") as caught:
        Plugins().make(kind, value)
    assert lacks in str(caught.value)


def test_without_options_cattrs_is_not_imported() -> None:
    code = """
import sys
from trio_sup import Choice
from trio_sup.engine._plugins import Plugins
plugins = Plugins()
for kind in ("port strategy", "install lock", "stop policy", "probe"):
    for name in set(plugins.offered(kind)) - {"exec", "fixed"}:
        plugins.make(kind, Choice(name))
print([module for module in ("cattrs", "h11") if module in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout == "[]\n", done.stderr
