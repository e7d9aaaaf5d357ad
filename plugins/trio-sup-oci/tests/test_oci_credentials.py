"""Credentials: in which files they are found, for whom, and with which helper programs."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_sup_oci._credential_helpers import ask_helper
from trio_sup_oci._credentials import Credentials, credentials_for
from trio_sup_oci._errors import UnusableCredentials
from trio_sup_oci._reference import parse_reference

QUAY = parse_reference("oci://quay.io/org/name:v1")
HUB = parse_reference("debian")


def auth(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def write(path: Path, table: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(table if isinstance(table, str) else json.dumps(table))


async def in_docker_file(home: Path, table: Any, reference: Any = QUAY) -> Credentials | None:
    write(home / ".docker" / "config.json", table)
    return await credentials_for(reference)


# ---- files


async def test_nothing_is_there_and_nothing_is_found(home: Path) -> None:
    assert await credentials_for(QUAY) is None
    assert await in_docker_file(home, "\n") is None


@pytest.mark.parametrize(
    ("key", "reference"),
    [
        ("quay.io", "quay.io/org/name"),
        ("https://quay.io", "quay.io/org/name"),
        ("https://quay.io/v2/", "quay.io/org/name"),
        ("quay.io/org", "quay.io/org/name"),
        ("quay.io/org/name", "quay.io/org/name"),
        ("https://index.docker.io/v1/", "debian"),
        ("docker.io", "owner/name"),
        ("registry-1.docker.io", "owner/name"),
        ("docker.io/owner", "owner/name"),
        ("registry.lan:5000", "registry.lan:5000/a"),
        ("[::1]:5000", "[::1]:5000/a"),
    ],
)
async def test_an_entry_is_found_by_any_name_of_its_registry(home: Path, key: str, reference: str) -> None:
    found = await in_docker_file(home, {"auths": {key: auth("user", "pass:word")}}, parse_reference(reference))
    assert found == Credentials(username="user", password="pass:word")


@pytest.mark.parametrize(
    "key",
    ["quay.io:443", "quay.io.evil.example", "evil.example/quay.io", "io", "quay.io/org/name2", "quay.io/org/n", ""],
)
async def test_an_entry_of_somebody_else_is_not_used(home: Path, key: str) -> None:
    assert await in_docker_file(home, {"auths": {key: auth("user", "s3cret")}}) is None


async def test_the_entry_for_the_longest_part_of_the_name_counts(home: Path) -> None:
    auths = {"quay.io": auth("a", "1"), "quay.io/org": auth("b", "2"), "quay.io/other": auth("c", "3")}
    assert await in_docker_file(home, {"auths": auths}) == Credentials(username="b", password="2")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"username": "u", "password": "p"}, Credentials(username="u", password="p")),
        ({**auth("u", "p\0\0"), "email": "x"}, Credentials(username="u", password="p")),
        ({**auth("u", ""), "identitytoken": "t"}, Credentials(username="u", identity_token="t")),
        ({"registrytoken": "r"}, Credentials(registry_token="r")),
        ({}, None),
        ({"auth": ""}, None),
        ("nonsense", None),
        (None, None),
    ],
)
async def test_all_forms_of_an_entry_are_read(home: Path, entry: Any, expected: Credentials | None) -> None:
    assert await in_docker_file(home, {"auths": {"quay.io": entry}}) == expected


async def test_files_are_looked_at_in_their_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [
        ("REGISTRY_AUTH_FILE", home / "named.json", home / "named.json"),
        ("DOCKER_CONFIG", home / "docker", home / "docker" / "config.json"),
        ("XDG_RUNTIME_DIR", home / "run", home / "run" / "containers" / "auth.json"),
        ("XDG_CONFIG_HOME", home / "conf", home / "conf" / "containers" / "auth.json"),
    ]
    for number, (variable, value, file) in reversed(tuple(enumerate(places))):
        monkeypatch.setenv(variable, str(value))
        assert (found := await credentials_for(QUAY)) is None or found.username == str(number + 1)
        write(file, {"auths": {"quay.io": auth(str(number), "p")}})
        found = await credentials_for(QUAY)
        assert found is not None
        assert found.username == str(number)


async def test_a_file_without_an_entry_leaves_it_to_the_next(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "named.json"))
    write(home / "named.json", {"auths": {"ghcr.io": auth("other", "p")}})
    write(home / ".config" / "containers" / "auth.json", {"auths": {"quay.io": auth("user", "p")}})
    found = await credentials_for(QUAY)
    assert found is not None
    assert found.username == "user"


@pytest.mark.parametrize("text", ["{", "[]", "5", '{"auths": {"quay.io": {"auth": "s3cret"}}}', "[" * 100_000])
async def test_a_file_that_cannot_be_read_is_named_and_not_quoted(home: Path, text: str) -> None:
    with pytest.raises(UnusableCredentials) as caught:
        await in_docker_file(home, text)
    assert str(home / ".docker" / "config.json") in str(caught.value)
    assert "s3cret" not in repr(caught.value) + str(caught.value)


async def test_an_entry_without_a_colon_is_named_and_not_quoted(home: Path) -> None:
    with pytest.raises(UnusableCredentials, match="not user:password") as caught:
        await in_docker_file(home, {"auths": {"quay.io": {"auth": base64.b64encode(b"s3cret").decode()}}})
    assert "s3cret" not in str(caught.value)


async def test_a_directory_in_place_of_the_file_is_a_clear_error(home: Path) -> None:
    (home / ".docker" / "config.json").mkdir(parents=True)
    with pytest.raises(UnusableCredentials, match="Is a directory"):
        await credentials_for(QUAY)


def test_credentials_are_not_shown() -> None:
    credentials = Credentials(username="u53r", password="s3cret", identity_token="1d3nt", registry_token="r3g")
    assert not any(secret in repr(credentials) for secret in ("u53r", "s3cret", "1d3nt", "r3g"))


# ---- helper programs


def helper(home: Path, monkeypatch: pytest.MonkeyPatch, script: str, name: str = "test") -> None:
    folder = home / "bin"
    folder.mkdir(exist_ok=True)
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


ANSWERS = """read -r server; echo "$1 $server" >> "$HOME/asked"
printf '{"ServerURL": "%s", "Username": "user", "Secret": "s3cret"}' "$server" """


@pytest.mark.parametrize(
    ("table", "reference", "server"),
    [
        ({"credsStore": "test"}, QUAY, "quay.io"),
        ({"credsStore": "test"}, HUB, "https://index.docker.io/v1/"),
        ({"credHelpers": {"quay.io": "test"}, "credsStore": "wrong"}, QUAY, "quay.io"),
        ({"credHelpers": {"docker.io": "test"}}, HUB, "https://index.docker.io/v1/"),
    ],
)
async def test_a_helper_is_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch, table: Any, reference: Any, server: str
) -> None:
    helper(home, monkeypatch, ANSWERS)
    found = await in_docker_file(home, table, reference)
    assert found == Credentials(username="user", password="s3cret")
    assert (home / "asked").read_text() == f"get {server}\n"


async def test_a_helper_may_give_an_identity_token(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(home, monkeypatch, """cat > /dev/null; echo '{"Username": "<token>", "Secret": "t"}'""")
    assert await in_docker_file(home, {"credsStore": "test"}) == Credentials(identity_token="t")


async def test_a_store_that_has_nothing_leaves_it_to_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(home, monkeypatch, "echo credentials not found in native keychain; exit 1")
    table = {"credsStore": "test", "auths": {"quay.io": auth("user", "p")}}
    assert await in_docker_file(home, table) == Credentials(username="user", password="p")


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo s3cret is locked; echo s3cret >&2; exit 3", "it ended with status 3"),
        ("echo s3cret", "its answer is no JSON"),
        ("echo '[\"s3cret\"]'", "has no Username and Secret"),
        ('echo \'{"Username": 5, "Secret": "s3cret"}\'', "has no Username and Secret"),
        ("exec cat /dev/zero", "longer than 65536 bytes"),
        ("kill -9 $$", "it ended with status -9"),
    ],
)
async def test_a_helper_that_fails_is_named_and_not_quoted(
    home: Path, monkeypatch: pytest.MonkeyPatch, script: str, complaint: str
) -> None:
    helper(home, monkeypatch, script)
    with trio.fail_after(20), pytest.raises(UnusableCredentials) as caught:
        await in_docker_file(home, {"credsStore": "test"})
    assert str(caught.value).startswith("credentials cannot be had from docker-credential-test: ")
    assert complaint in str(caught.value)
    assert "s3cret" not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize("name", ["../test", "/bin/sh", "", "a b", 5, "-x", "."])
async def test_what_cannot_be_a_helper_is_not_run(home: Path, name: object) -> None:
    with pytest.raises(UnusableCredentials, match="cannot be the name of a credential helper"):
        await in_docker_file(home, {"credHelpers": {"quay.io": name}})


async def test_a_helper_that_is_not_there_is_named(home: Path) -> None:
    with pytest.raises(UnusableCredentials, match="docker-credential-missing: it cannot be run: No such file"):
        await in_docker_file(home, {"credsStore": "missing"})


STUCK = 'echo $$ > "$HOME/pid"; sleep 60 & echo $! > "$HOME/child"; wait'


async def gone(path: Path) -> bool:
    pid = int(path.read_text())
    with trio.move_on_after(5):
        while True:
            try:
                # A zombie is reaped by whoever inherits it.
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    return True
            except (FileNotFoundError, ProcessLookupError):
                return True
            await trio.sleep(0.01)
    return False


async def test_a_helper_that_hangs_is_ended_with_its_children(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(home, monkeypatch, STUCK)
    with trio.fail_after(20), pytest.raises(UnusableCredentials, match=r"it did not answer within 0\.5 s"):
        await ask_helper("test", "quay.io", patience=0.5)
    assert await gone(home / "pid")
    assert await gone(home / "child")


async def test_cancellation_ends_a_helper(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(home, monkeypatch, STUCK)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_helper, "test", "quay.io")
            while not (home / "child").exists() or not (home / "child").read_text():
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert await gone(home / "pid")
    assert await gone(home / "child")


async def test_a_helper_may_leave_a_daemon_that_holds_its_output(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(home, monkeypatch, """sleep 60 & echo $! > "$HOME/child"; echo '{"Username": "u", "Secret": "s"}'""")
    try:
        with trio.fail_after(20):
            assert await ask_helper("test", "quay.io") == ("u", "s")
    finally:
        os.kill(int((home / "child").read_text()), 9)


async def test_a_helper_that_does_not_read_is_no_trouble(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(home, monkeypatch, """exec 0<&-; echo '{"Username": "u", "Secret": "s"}'""")
    with trio.fail_after(20):
        assert await ask_helper("test", "x" * 1_000_000) == ("u", "s")
