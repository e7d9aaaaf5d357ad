"""The plugins of one `trio-sup` command: what is installed, changed by `-p`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..engine._loading import PluginProblem, load_plugins
from ..engine._plugins import PluginError, Plugins
from ..errors import ConfigError
from ._config import TOP_LEVEL
from ._stderr import warn

_NOT = "no:"


class ChosenPlugins:
    """Loads what there is.

    Args:
        options: What was given with `-p`: names to load besides, or ``no:`` and a name to leave out.
        environ: The environment variables.

    Attributes:
        plugins: Those that can be used.
        problems: What is wrong with the others.
        required: Names of plugins that nothing goes on without.
    """

    def __init__(self, options: Sequence[str], environ: Mapping[str, str]) -> None:
        wanted = [option for option in options if not option.startswith(_NOT)]
        disabled = [option.removeprefix(_NOT) for option in options if option.startswith(_NOT)]
        loaded = load_plugins(wanted, disabled, environ=environ)
        self.required = set(wanted)
        self.plugins = Plugins(loaded.plugins, on_problem=self._go_on_without)
        self.problems: tuple[PluginProblem, ...] = (*loaded.problems, *_refused_sections(self.plugins))

    def complain(self) -> None:
        """Name those that failed, on stderr.

        Raises:
            ConfigError: One of them was asked for with `-p`.
        """
        for problem in self.problems:
            if not problem.required:
                warn(str(problem))
        required = [str(problem) for problem in self.problems if problem.required]
        if required:
            raise ConfigError("--plugin", required)

    def _go_on_without(self, error: PluginError) -> None:
        if error.plugin in self.required:
            raise ConfigError("required plugins", [str(error)]) from error
        warn(str(error))


def _refused_sections(plugins: Plugins) -> list[PluginProblem]:
    return [
        problem_with(plugins, plugins.section_from(name), f"its section {name!r} is left out: trio-sup has its own")
        for name in plugins.sections
        if name in TOP_LEVEL
    ]


def problem_with(plugins: Plugins, plugin: str, why: str) -> PluginProblem:
    """A problem that says where the plugin came from."""
    error = plugins.error(plugin, why)
    return PluginProblem(plugin, why, error.distribution, error.version)
