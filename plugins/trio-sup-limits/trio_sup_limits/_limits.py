"""The launch preparation: its options, what is checked of them, and the launch it makes."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs.converters import optional

from trio_sup import BackendSpec, InvalidValue
from trio_sup.strategies import Launch, complaints_name_fields

from . import _options as options
from ._accounts import CAP_SYS_NICE, CAP_SYS_RESOURCE, Account, account, check_control, has_capability
from ._environment import scrubbed

RLIMITS = ("nofile", "address_space", "core", "nproc", "memlock", "stack", "fsize", "cpu", "rss", "data")
_APPLY = Path(__file__).with_name("_apply.py")


@attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
class Limits:
    """Limits what a backend may use and do, without a moment in which it runs unlimited.

    Options that are left out change nothing. A resource limit is a number, a size such as ``"4GiB"``, ``"unlimited"``,
    or a pair of these: the soft and the hard limit.

    Args:
        nofile: Open files.
        address_space: Bytes of address space (RLIMIT_AS; the name ``as`` is taken by Python).
        core: Bytes of a core dump.
        nproc: Processes and threads of its user, wherever they run; root is not bound by it.
        memlock: Bytes locked into memory.
        stack: Bytes of stack.
        fsize: Bytes of a file it writes.
        cpu: Seconds of CPU time.
        rss: Bytes in memory; accepted, but Linux does nothing with it.
        data: Bytes of heap and of private mappings.
        nice: From -20 (first) to 19 (last).
        cpus: The CPUs it may run on: a list, or text such as ``"0-3,8"``.
        umask: Octal text, such as ``"027"``.
        no_new_privileges: Whether set-user-ID programs and file capabilities give it nothing any more.
        keep_env: Names or patterns of the inherited variables that it keeps; by default all.
        drop_env: Names or patterns of the variables that it does not get, even if kept by *keep_env*.
        user, group: Whom it runs as: names or numbers. The supplementary groups are those of the user.

    The variables of ``BackendSpec.env`` and the token are dropped only by their very names, those by which the
    supervisor finds the backend's processes never.

    Raises:
        InvalidValue: An option makes no sense; the message names it.
    """

    nofile: options.Limit | None = attrs.field(default=None, converter=optional(options.to_limit))
    address_space: options.Limit | None = attrs.field(default=None, converter=optional(options.to_limit))
    core: options.Limit | None = attrs.field(default=None, converter=optional(options.to_limit))
    nproc: options.Limit | None = attrs.field(default=None, converter=optional(options.to_limit))
    memlock: options.Limit | None = attrs.field(default=None, converter=optional(options.to_limit))
    stack: options.Limit | None = attrs.field(default=None, converter=optional(options.to_limit))
    fsize: options.Limit | None = attrs.field(default=None, converter=optional(options.to_limit))
    cpu: options.Limit | None = attrs.field(default=None, converter=optional(options.to_limit))
    rss: options.Limit | None = attrs.field(default=None, converter=optional(options.to_limit))
    data: options.Limit | None = attrs.field(default=None, converter=optional(options.to_limit))
    nice: int | None = attrs.field(default=None, converter=optional(options.to_nice))
    cpus: frozenset[int] | None = attrs.field(default=None, converter=optional(options.to_cpus))
    umask: int | None = attrs.field(default=None, converter=optional(options.to_umask))
    no_new_privileges: bool | None = attrs.field(default=None, converter=optional(options.to_bool))
    keep_env: tuple[str, ...] | None = attrs.field(default=None, converter=optional(options.to_patterns))
    drop_env: tuple[str, ...] | None = attrs.field(default=None, converter=optional(options.to_patterns))
    user: str | int | None = attrs.field(default=None, converter=optional(options.to_account))
    group: str | int | None = attrs.field(default=None, converter=optional(options.to_account))

    def check(self, spec: BackendSpec) -> None:
        """Look whether everything could be applied here.

        Raises:
            InvalidValue: A limit is above what this process may give, or the user or group cannot be had.
        """
        if not sys.executable:
            raise InvalidValue(sys.executable, "limits need a Python interpreter to run as a program")
        for name, (_, hard) in self._rlimits().items():
            _check_hard(name, hard)
        if self.nice is not None:
            _check_nice(self.nice)
        self._account()

    def prepare(self, launch: Launch) -> Launch:
        """Put the program in front that applies the limits and then executes the backend, as the same process."""
        steps = {name: value for name, value in self._steps().items() if value is not None}
        return attrs.evolve(
            launch,
            executable=sys.executable,
            arguments=(
                *(sys.executable, "-I", "-S", str(_APPLY), json.dumps(steps)),
                *("--", launch.executable, *launch.arguments),
            ),
            environment=scrubbed(launch.environment, self.keep_env, self.drop_env or (), launch.spec.env),
        )

    def _rlimits(self) -> Mapping[str, options.Limit]:
        given = {name: getattr(self, name) for name in RLIMITS}
        return {name: limit for name, limit in given.items() if limit is not None}

    def _account(self) -> Account | None:
        if self.user is None and self.group is None:
            return None
        found = account(self.user, self.group)
        check_control(*(("user", self.user) if self.user is not None else ("group", self.group)))
        return found

    def _steps(self) -> dict[str, Any]:
        who = self._account()
        return {
            "rlimits": {_kernel_name(name): limit for name, limit in self._rlimits().items()} or None,
            "nice": self.nice,
            "cpus": sorted(self.cpus) if self.cpus is not None else None,
            "umask": self.umask,
            "groups": who.groups if who else None,
            "gid": who.gid if who else None,
            "uid": who.uid if who else None,
            "no_new_privileges": self.no_new_privileges,
        }


def _kernel_name(limit: str) -> str:
    return f"RLIMIT_{'AS' if limit == 'address_space' else limit.upper()}"


def _check_hard(name: str, hard: int) -> None:
    ours = resource.getrlimit(getattr(resource, _kernel_name(name)))[1]
    if (
        ours != options.UNLIMITED
        and (hard == options.UNLIMITED or hard > ours)
        and not has_capability(CAP_SYS_RESOURCE)
    ):
        raise InvalidValue(_text(hard), f"{name}: the hard limit of this process is {ours}, and only root may raise it")
    if name == "nofile":
        most = int(Path("/proc/sys/fs/nr_open").read_text())
        if hard == options.UNLIMITED or hard > most:
            raise InvalidValue(_text(hard), f"nofile: the kernel allows at most {most} (fs.nr_open)")


def _check_nice(nice: int) -> None:
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    soft = resource.getrlimit(resource.RLIMIT_NICE)[0]
    lowest = min(ours, -20 if soft == options.UNLIMITED else 20 - soft)
    if nice < lowest and not has_capability(CAP_SYS_NICE):
        raise InvalidValue(nice, f"nice: this process may not go below {lowest}")


def _text(limit: int) -> int | str:
    return "unlimited" if limit == options.UNLIMITED else limit
