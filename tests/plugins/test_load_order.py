"""Plugins in either order: a built-in's name belongs to the plugin that takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import trio_sup_example
import trio_sup_limits

from trio_sup import Choice, hookimpl
from trio_sup.engine._plugins import Plugins
from trio_sup.strategies import LaunchPreparation, StopPolicy


class TakesTerminate:
    """Gives a built-in's name, and one of another plugin's, to something else."""

    @hookimpl
    def trio_sup_stop_policies(self) -> Mapping[str, Callable[..., StopPolicy]]:
        return {"terminate": trio_sup_example.HangUpFirst}

    @hookimpl
    def trio_sup_launch_preparations(self) -> Mapping[str, Callable[..., LaunchPreparation]]:
        return {"limits": lambda: trio_sup_limits.Limits(core=0)}


@pytest.mark.parametrize("reverse", [False, True])
def test_a_plugin_takes_a_built_in_name_wherever_it_stands(reverse: bool) -> None:
    given: list[object] = [TakesTerminate(), trio_sup_example]
    plugins = Plugins(given[::-1] if reverse else given)
    assert isinstance(plugins.make("stop policy", Choice("terminate")), trio_sup_example.HangUpFirst)
    assert isinstance(plugins.make("stop policy", Choice("hang-up-first")), trio_sup_example.HangUpFirst)


@pytest.mark.parametrize("reverse", [False, True])
def test_of_two_plugins_with_one_name_the_later_wins(reverse: bool) -> None:
    given: list[object] = [trio_sup_limits, TakesTerminate()]
    plugins = Plugins(given[::-1] if reverse else given)
    made = plugins.make("launch preparation", Choice("limits"))
    assert made == (trio_sup_limits.Limits() if reverse else trio_sup_limits.Limits(core=0))
