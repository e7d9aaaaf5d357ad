"""What the options accept, and what is said about those that make no sense."""

from __future__ import annotations

import os
import resource
from typing import Any

import attrs
import pytest
import trio_sup_limits
from trio_sup_limits import Limits

import trio_sup
from trio_sup import BackendSpec, InvalidOptions, InvalidValue

SPEC = BackendSpec(name="b", command=["b"])
UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        (128, (128, 128)),
        ("128", (128, 128)),
        ("4GiB", (2**32, 2**32)),
        ("1 MB", (10**6, 10**6)),
        ("unlimited", (UNLIMITED, UNLIMITED)),
        (["1KiB", "unlimited"], (1024, UNLIMITED)),
        ((0, 5), (0, 5)),
    ],
)
def test_a_limit_is_a_number_a_size_or_unlimited(given: Any, limit: tuple[int, int]) -> None:
    assert Limits(core=given).core == limit
    assert Limits(address_space=given).address_space == limit


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"nofile": -1}, "nofile: expected a number, a size"),
        ({"nofile": True}, "nofile: expected a number, a size"),
        ({"address_space": "4 bananas"}, "address_space: expected a number, a size"),
        ({"data": 2**64}, "data: expected a number, a size"),
        ({"core": [1, 2, 3]}, "core: expected one limit, or the soft and the hard one"),
        ({"core": ["unlimited", 5]}, "core: the soft limit is above the hard one"),
        ({"nice": 20}, "nice: expected a number from -20"),
        ({"cpus": "3-1"}, "cpus: expected CPUs such as"),
        ({"cpus": []}, "cpus: expected a list of CPUs"),
        ({"cpus": [65000]}, "cpus: CPU 65000 is not available; those are"),
        ({"umask": 27}, "umask: expected octal digits as text"),
        ({"umask": "028"}, "umask: expected octal digits as text"),
        ({"no_new_privileges": 1}, "no_new_privileges: expected true or false"),
        ({"keep_env": "PATH"}, "keep_env: expected a list of names or patterns"),
        ({"drop_env": [""]}, "drop_env: expected a name or a pattern"),
        ({"user": -1}, "user: expected a name or a number"),
        ({"group": 2**32 - 1}, "group: expected a name or a number"),
        ({"nofiles": 1}, "did you mean 'nofile'"),
    ],
)
async def test_a_wrong_option_is_named(options: dict[str, Any], complaint: str) -> None:
    async with trio_sup.open_supervisor(plugins=[trio_sup_limits], install_lock="memory") as sup:
        with pytest.raises(InvalidOptions) as caught:
            await sup.start(BackendSpec(name="b", command=["true"], launch=[{"strategy": "limits", **options}]))
        assert complaint in str(caught.value)


async def test_all_wrong_options_are_named_at_once() -> None:
    choice = {"strategy": "limits", "address_space": -1, "nice": 99, "umask": "x"}
    async with trio_sup.open_supervisor(plugins=[trio_sup_limits], install_lock="memory") as sup:
        with pytest.raises(InvalidOptions) as caught:
            await sup.start(BackendSpec(name="b", command=["true"], launch=[choice]))
    named = [problem.partition(":")[0] for problem in sorted(caught.value.problems)]
    assert named == [
        "address_space",
        "nice",
        "umask",
    ]


def test_cpus_are_a_list_or_ranges() -> None:
    available = sorted(os.sched_getaffinity(0))
    assert Limits(cpus=available[:1]).cpus == frozenset({available[0]})
    assert Limits(cpus=f"{available[0]}-{available[0]}, {available[-1]}").cpus == frozenset(
        {available[0], available[-1]}
    )


def test_an_unknown_account_is_named_by_the_check() -> None:
    with pytest.raises(InvalidValue, match="user: there is no user of that name"):
        Limits(user="no-such-user").check(SPEC)
    with pytest.raises(InvalidValue, match="group: there is no group of that name"):
        Limits(group="no-such-group").check(SPEC)
    with pytest.raises(InvalidValue, match="`group` must be given too"):
        Limits(user=4000000000).check(SPEC)


def test_more_files_than_the_kernel_allows_are_refused_by_the_check() -> None:
    with pytest.raises(InvalidValue, match=r"nofile: (the kernel allows at most|the hard limit of this process is)"):
        Limits(nofile="unlimited").check(SPEC)


def test_every_field_has_a_line_in_the_docstring() -> None:
    text = Limits.__doc__ or ""
    for field in attrs.fields(Limits):
        assert f"{field.name}" in text, field.name
