"""``WWW-Authenticate`` in all its forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio_sup_oci._challenge import parse_challenges


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (['Basic realm="x"'], [("basic", {"realm": "x"})]),
        (
            ['Bearer realm="https://a/token",service="r.io",scope="repository:a/b:pull,push"'],
            [("bearer", {"realm": "https://a/token", "service": "r.io", "scope": "repository:a/b:pull,push"})],
        ),
        (['bearer REALM = token , Service=\t"a"'], [("bearer", {"realm": "token", "service": "a"})]),
        (
            ['Basic realm="x", Bearer realm="y, z=1", scope="a \\"b\\" \\\\"'],
            [("basic", {"realm": "x"}), ("bearer", {"realm": "y, z=1", "scope": 'a "b" \\'})],
        ),
        (['Basic realm="x"', "Negotiate"], [("basic", {"realm": "x"}), ("negotiate", {})]),
        (["Negotiate abc+/==, Bearer realm=x"], [("negotiate", {}), ("bearer", {"realm": "x"})]),
        (["Negotiate, NTLM, Basic realm=x"], [("negotiate", {}), ("ntlm", {}), ("basic", {"realm": "x"})]),
        ([", ,Basic realm=x,,"], [("basic", {"realm": "x"})]),
        (["Bearer realm=a,realm=b"], [("bearer", {"realm": "a"})]),
        (["Bearer"], [("bearer", {})]),
        ([""], []),
        ([], []),
        # What cannot be read ends its header, and no other.
        (['Basic realm="unfinished', "Bearer realm=x"], [("basic", {}), ("bearer", {"realm": "x"})]),
        (['"', "Bearer realm=x"], [("bearer", {"realm": "x"})]),
    ],
)
def test_challenges_are_read(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(each.scheme, dict(each.parameters)) for each in parse_challenges(headers)] == expected


@given(st.lists(st.text(alphabet='aB="\\, \t/+1', max_size=60), max_size=3))
def test_nothing_makes_it_fail(headers: list[str]) -> None:
    for challenge in parse_challenges(headers):
        assert challenge.scheme == challenge.scheme.lower() != ""


TOKEN = st.from_regex(r"[a-z]{1,8}", fullmatch=True)


@given(st.lists(st.tuples(TOKEN, st.dictionaries(TOKEN, st.text(max_size=20), max_size=4)), max_size=4))
def test_what_is_written_by_the_rules_is_read_back(challenges: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(
        f"{scheme} " + ", ".join(f"{name}={quoted(value)}" for name, value in parameters.items())
        for scheme, parameters in challenges
    )
    assert [(each.scheme, dict(each.parameters)) for each in parse_challenges([header])] == challenges
