"""The command line's part for galleries and releases: what there is to call, with its options and help."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from cyclopts import App, CycloptsError, Parameter

from ._default_config import DEFAULT_CONFIG
from ._option_types import All, ConfigFile, Flag, PluginOption

if TYPE_CHECKING:
    from ._gallery_setup import GallerySetup

COMMANDS = frozenset({"gallery", "install", "upgrade", "delete", "backends"})


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Where:
    """Where releases are and come from.

    Parameters
    ----------
    backends_dir
        Directory of the releases, instead of the configured one.
    config
        The configuration file, if there is one; only [galleries] and install_lock are read.
    plugin
        Load this plugin or module besides the installed ones, and fail without it; `no:NAME` leaves one out.
        Can be given several times.
    """

    backends_dir: Path | None = None
    config: ConfigFile = DEFAULT_CONFIG
    plugin: PluginOption = ()


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Which:
    """Which entries of the galleries are shown, and as of when.

    Parameters
    ----------
    tag
        Only those with this tag.
    every
        Those for other machines as well, and each build by itself.
    refresh
        Ask the galleries now, and not only if they were last asked more than an hour ago.
    """

    tag: str | None = None
    every: All = False
    refresh: Flag = False


USUAL = Where()
EVERYTHING = Which()


def add_gallery_commands(app: App) -> None:
    """Add the commands for galleries and releases to *app*."""
    app.command(_gallery_app())

    @app.command
    def install(
        what: str,
        /,
        *,
        name: str | None = None,
        alias: str | None = None,
        sha256: str | None = None,
        force: Flag = False,
        require_integrity: Flag = False,
        where: Where = USUAL,
        json: Flag = False,
    ) -> int:
        """Install a backend, all or nothing.

        What runs from an older release of it goes on undisturbed until it is restarted. After Ctrl-C, what was
        downloaded is kept for the next try, and nothing else.

        Parameters
        ----------
        what
            The name of a backend of the galleries, such as llama-cpp or localai@llama-cpp; or an address: a directory,
            an archive (a file, file://, http://, https://), or what else plugins fetch.
        name
            What to install it as; only with an address, which may lead to a name by itself.
        alias
            Another name that is to mean it; only with an address.
        sha256
            Digest that the archive must have, in hex digits; only with an address.
        force
            Fetch it although it is installed already.
        require_integrity
            Refuse it if nothing proves that it is what was meant.
        json
            Write progress and result to stdout as one JSON object per line.
        """
        from ._install_command import install_release

        setup = _setup(where, require_integrity=require_integrity)
        return install_release(setup, what, name=name, alias=alias, sha256=sha256, force=force, as_json=json)

    @app.command
    def upgrade(
        *names: str,
        every: All = False,
        check: Flag = False,
        where: Where = USUAL,
        json: Flag = False,
    ) -> int:
        """Replace installed backends by the newest releases of them, each all or nothing.

        What runs from an older release goes on undisturbed until it is restarted. Exits with 1 if one could not be
        upgraded; the others are.

        Parameters
        ----------
        names
            Which ones, by any of their names.
        every
            All that are installed.
        check
            Only say of which ones there are newer releases.
        json
            Write progress and results to stdout as one JSON object per line; with --check, one JSON document.
        """
        from ._upgrade_command import upgrade_releases

        if every and names:
            raise _usage("upgrade", "Give names, or --all; not both.")
        if not every and not names:
            raise _usage("upgrade", "Say what to upgrade: names of installed backends, or --all for all of them.")
        return upgrade_releases(_setup(where), names, check=check, as_json=json)

    @app.command
    def delete(
        name: str,
        /,
        *more: str,
        where: Where = USUAL,
        json: Flag = False,
    ) -> int:
        """Delete installed backends; none of them, if one is in use by a running backend, and who uses it is named.

        Parameters
        ----------
        name
            Which one, by any of its names; one that stands for another one takes that with it.
        more
            Further ones.
        json
            Print one JSON document instead.
        """
        from ._delete_command import delete_releases

        return delete_releases(_setup(where), (name, *more), as_json=json)

    @app.command
    def backends(
        *,
        where: Where = USUAL,
        json: Flag = False,
    ) -> int:
        """List the installed backends: their versions, where they come from, their size, and who uses them.

        Parameters
        ----------
        json
            Print one JSON document instead.
        """
        from ._backends_command import show_installed

        return show_installed(_setup(where), as_json=json)


def _gallery_app() -> App:
    gallery = App(name="gallery", help="Show which backends the galleries have.")

    @gallery.command(name="list")
    def list_(
        *,
        which: Which = EVERYTHING,
        where: Where = USUAL,
        json: Flag = False,
    ) -> int:
        """List the backends that fit this machine, those first that stand for the build that fits.

        Exits with 1 if no gallery can be read.

        Parameters
        ----------
        json
            Print one JSON document instead.
        """
        from ._gallery_listing import list_backends

        return list_backends(_setup(where), tag=which.tag, every=which.every, refresh=which.refresh, as_json=json)

    @gallery.command
    def search(
        text: str,
        /,
        *more: str,
        which: Which = EVERYTHING,
        where: Where = USUAL,
        json: Flag = False,
    ) -> int:
        """List the backends whose name, alias, description or tags contain all of these words.

        Parameters
        ----------
        text
            A word, in any case of letters.
        more
            Further ones.
        json
            Print one JSON document instead.
        """
        from ._gallery_listing import list_backends

        text = " ".join((text, *more))
        return list_backends(_setup(where), text, tag=which.tag, every=which.every, refresh=which.refresh, as_json=json)

    @gallery.command
    def show(
        name: str,
        /,
        *,
        where: Where = USUAL,
        json: Flag = False,
    ) -> int:
        """Tell all that the galleries say of one backend, and what it comes to on this machine.

        Parameters
        ----------
        name
            Such as llama-cpp or localai@llama-cpp.
        json
            Print one JSON document instead.
        """
        from ._gallery_entry import show_backend

        return show_backend(_setup(where), name, as_json=json)

    return gallery


def _usage(command: str, text: str) -> CycloptsError:
    return CycloptsError(msg=text, command_chain=(command,))


def _setup(where: Where, *, require_integrity: bool = False) -> GallerySetup:
    from ._chosen_plugins import ChosenPlugins
    from ._gallery_setup import read_setup

    chosen = ChosenPlugins(where.plugin, os.environ)
    chosen.complain()
    return read_setup(
        where.config, os.environ, chosen.plugins, backends_dir=where.backends_dir, require_integrity=require_integrity
    )
