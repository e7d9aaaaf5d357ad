"""Users and groups, and whether a process of another one would stay in our hands."""

from __future__ import annotations

import grp
import os
import pwd

import attrs

from trio_sup import InvalidValue

# Numbers of <linux/capability.h>, and what each is needed for.
_NEEDED = {
    "CAP_SETUID": (7, "to become another user"),
    "CAP_SETGID": (6, "to join another group"),
    "CAP_KILL": (5, "to end its processes"),
    "CAP_SYS_PTRACE": (19, "to see whose processes they are"),
}
CAP_SYS_NICE, CAP_SYS_RESOURCE = 23, 24


@attrs.frozen
class Account:
    """Who a process becomes; a *uid* of None stays who it is."""

    uid: int | None
    gid: int
    groups: tuple[int, ...]


def has_capability(number: int) -> bool:
    """Whether this process has that capability in effect."""
    with open("/proc/self/status") as file:
        effective = next(line for line in file if line.startswith("CapEff:")).split()[1]
    return bool(int(effective, 16) >> number & 1)


def account(user: str | int | None, group: str | int | None) -> Account:
    """Look up who is meant.

    Raises:
        InvalidValue: There is no such user or group, or a user that only has a number came without its group.
    """
    gid = _gid(group) if group is not None else None
    if user is None:
        assert gid is not None
        return Account(None, gid, (gid,))
    try:
        known = pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except KeyError:
        if not isinstance(user, int):
            raise InvalidValue(user, "user: there is no user of that name") from None
        if gid is None:
            raise InvalidValue(user, "user: no account has that number, so `group` must be given too") from None
        return Account(user, gid, (gid,))
    gid = known.pw_gid if gid is None else gid
    return Account(known.pw_uid, gid, tuple(os.getgrouplist(known.pw_name, gid)))


def _gid(group: str | int) -> int:
    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise InvalidValue(group, "group: there is no group of that name") from None


def check_control(option: str, value: object) -> None:
    """Look whether processes of another user could still be seen and ended from here.

    A /proc that hides processes (``hidepid``) hides nothing from those who have CAP_SYS_PTRACE.

    Raises:
        InvalidValue: They could not; *option* and *value* are what asked for it.
    """
    lacking = [f"{name} {why}" for name, (number, why) in _NEEDED.items() if not has_capability(number)]
    if os.geteuid() != 0:
        lacking.insert(0, f"to be root (this is user {os.geteuid()})")
    if lacking:
        raise InvalidValue(
            value,
            f"{option}: the supervisor could not start, see and end a process of another user or group: it lacks "
            f"{', '.join(lacking)}",
        )
    if os.readlink("/proc/self") != str(os.getpid()):
        raise InvalidValue(value, f"{option}: /proc does not show the processes of this supervisor")
