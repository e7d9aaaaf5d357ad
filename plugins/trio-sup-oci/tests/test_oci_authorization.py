"""Who asks: Basic and Bearer against real registries, tokens, and where credentials are never sent."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import attrs
import httpx2
import pytest
import trio
from oci_images import RUN, image
from oci_registry import PASSWORD, USER, Registry, running_registry
from oci_server import Answer, Asked, serve
from oci_tokens import IDENTITY_TOKEN, ISSUER, SERVICE, Signer, TokenServer, token_server
from trio_sup_oci import Registries, _authorization, _http
from trio_sup_oci._reference import parse_reference

from trio_sup import DownloadFailed

pytestmark = pytest.mark.needs("docker-registry", "skopeo")

IMAGE = image({"run.sh": RUN})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "FIRST_WAIT", 0.001)


@pytest.fixture
def log_in(home: Path) -> Callable[..., None]:
    """Keeps credentials as `docker login` does."""

    def log_in(host: str, username: str = USER, password: str = PASSWORD, **more: str) -> None:
        encoded = base64.b64encode(f"{username}:{password}".encode()).decode()
        (home / ".docker").mkdir(exist_ok=True)
        (home / ".docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": encoded, **more}}}))

    return log_in


async def failure_of(source: Registries, uri: str) -> DownloadFailed:
    with trio.fail_after(20), pytest.raises(DownloadFailed) as caught:
        await source.digest(uri)
    assert caught.value.what == uri
    assert PASSWORD not in repr(caught.value) + str(caught.value)
    return caught.value


# ---- Basic


@pytest.fixture(scope="module")
def closed(closed_registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    closed_registry.push(IMAGE, "closed/image:v1", tmp_path_factory.mktemp("push"))
    return closed_registry


async def test_a_closed_registry_opens_to_who_has_logged_in(closed: Registry, log_in: Callable[..., None]) -> None:
    log_in(closed.host)
    source = Registries()
    assert await source.digest(closed.reference("closed/image:v1")) == IMAGE.digest
    assert PASSWORD not in repr(source)


async def test_without_credentials_the_error_says_what_to_do(closed: Registry) -> None:
    error = await failure_of(Registries(), closed.reference("closed/image:v1"))
    assert f"`docker login {closed.host}`" in error.why
    assert "401 Unauthorized (authentication required)" in error.why
    assert not error.temporary


async def test_wrong_credentials_are_refused_and_not_shown(closed: Registry, log_in: Callable[..., None]) -> None:
    log_in(closed.host, password="wr0ng")
    error = await failure_of(Registries(), closed.reference("closed/image:v1"))
    assert "does not let us read closed/image: 401" in error.why
    assert "wr0ng" not in str(error)


async def test_a_log_in_takes_effect_without_a_new_source(closed: Registry, log_in: Callable[..., None]) -> None:
    source = Registries()
    log_in(closed.host, password="wr0ng")
    await failure_of(source, closed.reference("closed/image:v1"))
    log_in(closed.host)
    assert await source.digest(closed.reference("closed/image:v1")) == IMAGE.digest


async def test_a_broken_file_of_credentials_is_named(closed: Registry, home: Path) -> None:
    (home / ".docker").mkdir()
    (home / ".docker" / "config.json").write_text(f"{{{PASSWORD}")
    error = await failure_of(Registries(), closed.reference("closed/image:v1"))
    assert f"credentials cannot be had from {home}/.docker/config.json: it is no JSON" in error.why


# ---- Bearer, with tokens that the registry itself verifies


@attrs.frozen
class ByToken:
    registry: Registry
    signer: Signer
    port: int

    def server(self, **options: Any) -> TokenServer:
        return TokenServer(self.signer, port=self.port, **options)

    @property
    def uri(self) -> str:
        return self.registry.reference("token/image:v1")


@pytest.fixture(scope="module")
def by_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByToken]:
    """A registry that sends who asks to a token server, which each test runs itself."""
    directory = tmp_path_factory.mktemp("by-token")
    signer = Signer()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    auth = {
        "realm": TokenServer(signer, port=port).realm,
        "service": SERVICE,
        "issuer": ISSUER,
        "rootcertbundle": str(signer.write_certificate(directory / "certificate.pem")),
    }
    with running_registry(directory, auth={"token": auth}, credentials=(USER, PASSWORD)) as registry:
        found = ByToken(registry, signer, port)

        async def fill() -> None:
            async with token_server(found.server()):
                await trio.to_thread.run_sync(registry.push, IMAGE, "token/image:v1", directory)

        trio.run(fill)
        yield found


async def test_a_token_is_asked_for_once_and_kept(by_token: ByToken) -> None:
    source = Registries()
    async with token_server(by_token.server()) as server:
        for _ in range(2):
            assert await source.digest(by_token.uri) == IMAGE.digest
    assert server.scopes == [["repository:token/image:pull"]]
    assert "authorization" not in server.asked[0].headers


async def test_a_token_may_have_either_name(by_token: ByToken) -> None:
    async with token_server(by_token.server(key="access_token")):
        assert await Registries().digest(by_token.uri) == IMAGE.digest


@pytest.mark.parametrize("life", [0.001, None, -5, "nonsense"])
async def test_a_token_is_renewed_when_its_life_is_over(
    by_token: ByToken, life: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_authorization, "USUAL_LIFE", 0.001)
    source = Registries()
    server = by_token.server(life=300)
    async with token_server(server):
        await source.digest(by_token.uri)
        (known,) = source._known.values()
        assert known.until > 0
        answer = json.dumps({"token": known.header.removeprefix("Bearer "), "expires_in": life})

        async def short(asked: Asked) -> Answer:
            server.asked.append(asked)
            return Answer(body=answer.encode())

        source._known.clear()
        server.asked.clear()
    async with serve(short, by_token.port):
        for _ in range(2):
            await source.digest(by_token.uri)
            await trio.sleep(0.002)
    assert len(server.asked) == 2


async def test_a_token_that_is_refused_is_renewed(by_token: ByToken) -> None:
    source = Registries()
    async with token_server(by_token.server()) as server:
        await source.digest(by_token.uri)
        (key,) = source._known
        source._known[key] = attrs.evolve(source._known[key], header="Bearer nonsense")
        assert await source.digest(by_token.uri) == IMAGE.digest
    assert len(server.asked) == 2


async def test_credentials_go_to_the_token_server(by_token: ByToken, log_in: Callable[..., None]) -> None:
    log_in(by_token.registry.host)
    async with token_server(by_token.server(closed=True)) as server:
        assert await Registries().digest(by_token.uri) == IMAGE.digest
    assert server.asked[0].headers["authorization"].startswith("Basic ")


async def test_an_identity_token_is_exchanged(by_token: ByToken, log_in: Callable[..., None]) -> None:
    log_in(by_token.registry.host, password="", identitytoken=IDENTITY_TOKEN)
    async with token_server(by_token.server(closed=True, key="access_token")) as server:
        assert await Registries().digest(by_token.uri) == IMAGE.digest
    assert [asked.method for asked in server.asked] == ["POST"]
    assert "authorization" not in server.asked[0].headers
    assert IDENTITY_TOKEN not in server.asked[0].target


@pytest.mark.parametrize("password", [None, "wr0ng"])
async def test_a_token_server_that_refuses_is_named(
    by_token: ByToken, log_in: Callable[..., None], password: str | None
) -> None:
    if password:
        log_in(by_token.registry.host, password=password)
    async with token_server(by_token.server(closed=True)) as server:
        error = await failure_of(Registries(), by_token.uri)
    assert "the token server 127.0.0.1 refused: 401 Unauthorized (who are you?)" in error.why
    assert ("docker login" in error.why) is (password is None)
    assert not error.temporary
    assert len(server.asked) == 1


async def test_a_token_server_that_is_down_for_a_while_is_asked_again(by_token: ByToken) -> None:
    async with token_server(by_token.server(failures=[503, 429])) as server:
        assert await Registries().digest(by_token.uri) == IMAGE.digest
    assert len(server.asked) == 3


async def test_a_token_server_that_stays_down_is_given_up(by_token: ByToken) -> None:
    error = await failure_of(Registries(retries=2), by_token.uri)
    assert "the token server 127.0.0.1 gave no token: " in error.why
    assert error.temporary


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (Answer(body=b"nonsense"), "is no JSON object"),
        (Answer(body=b"[]"), "is no JSON object"),
        (Answer(body=b"{}"), "has no token"),
        (Answer(body=b'{"token": "a\\r\\nX-Evil: 1"}'), "has no token"),
        (Answer(body=b'{"token": "' + b"x" * 2_000_000 + b'"}'), "more than 1048576 bytes"),
        (Answer(status=302, headers=[("Location", "http://127.0.0.1:1/")]), "refused: 302"),
        (Answer(status=400, body=b'{"errors":[{"message":"\\u001b[31mred"}]}'), "refused: 400 Bad Request ([31mred)"),
    ],
)
async def test_an_answer_that_is_no_token_is_refused(by_token: ByToken, answer: Answer, complaint: str) -> None:
    async def nonsense(asked: Asked) -> Answer:
        return answer

    async with serve(nonsense, by_token.port):
        error = await failure_of(Registries(), by_token.uri)
    assert complaint in error.why
    assert not error.temporary


async def test_cancellation_while_a_token_server_hangs(by_token: ByToken) -> None:
    asked = trio.Event()

    async def hangs(_: Asked) -> Answer:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    with trio.fail_after(20):
        async with serve(hangs, by_token.port), trio.open_nursery() as nursery:
            nursery.start_soon(Registries().digest, by_token.uri)
            await asked.wait()
            nursery.cancel_scope.cancel()


async def test_a_token_that_was_renewed_for_another_part_is_used() -> None:
    reference = parse_reference("oci://quay.io/a/b")
    known: _authorization.Known = {}
    async with httpx2.AsyncClient() as client:
        authorization = _authorization.Authorization(
            reference, client=client, known=known, insecure=(), tries=_http.Tries(retries=0), what="x"
        )
        key = ("quay.io", "repository:a/b:pull")
        known[key] = _authorization.Shown("Bearer old")
        flow = authorization.async_auth_flow(httpx2.Request("GET", "https://quay.io/v2/a/b/blobs/x"))
        async with aclosing(flow):
            request = await anext(flow)
            assert request.headers["authorization"] == "Bearer old"
            known[key] = _authorization.Shown("Bearer new")
            again = await flow.asend(httpx2.Response(401, request=request))
            assert again.headers["authorization"] == "Bearer new"


# ---- registries that want something odd


async def endless() -> AsyncGenerator[bytes, None]:
    while True:
        yield b"x" * 65536
        await trio.lowlevel.checkpoint()


async def challenged(challenge: str) -> DownloadFailed:
    async def refuses(asked: Asked) -> Answer:
        return Answer(status=401, headers=[("WWW-Authenticate", challenge)], body=endless())

    async with serve(refuses) as port:
        error = await failure_of(Registries(), f"oci://127.0.0.1:{port}/a/b:v1")
    assert not error.temporary
    return error


@pytest.mark.parametrize(
    ("challenge", "complaint"),
    [
        ('Bearer realm="http://tokens.example/token"', "a token server without encryption, tokens.example"),
        ('Bearer realm="http://127.0.0.1.example/token"', "without encryption"),
        ('Bearer realm="ftp://127.0.0.1/"', "names a token server that is none: 'ftp://127.0.0.1/'"),
        ('Bearer realm="/token"', "names a token server that is none"),
        ('Bearer realm="https://u:p@127.0.0.1/"', "names a token server that is none"),
        ('Bearer realm="https://["', "names a token server that is none"),
        ("Bearer", "names a token server that is none"),
        ("Negotiate", "not known here (negotiate)"),
        ("", "not known here (nothing)"),
        ("Basic", "does not let us read a/b: 401"),
    ],
)
async def test_what_cannot_be_answered_is_a_clear_error(
    challenge: str, complaint: str, home: Path, log_in: Callable[..., None]
) -> None:
    log_in("quay.io")
    assert complaint in (await challenged(challenge)).why


async def test_of_a_refusal_without_end_only_the_beginning_is_read(log_in: Callable[..., None]) -> None:
    async def refuses_first(asked: Asked) -> Answer:
        if asked.method == "HEAD":
            return Answer(status=405)
        if "authorization" not in asked.headers:
            return Answer(status=401, headers=[("WWW-Authenticate", "Basic")], body=endless())
        return Answer(body=IMAGE.top.data)

    async with serve(refuses_first) as port:
        log_in(f"127.0.0.1:{port}")
        with trio.fail_after(20):
            assert await Registries().digest(f"oci://127.0.0.1:{port}/a/b:v1") == IMAGE.digest


@pytest.mark.parametrize("challenge", ["Basic", 'Bearer realm="http://127.0.0.1:{port}/token"'])
async def test_credentials_go_to_no_host_that_a_registry_leads_to(log_in: Callable[..., None], challenge: str) -> None:
    seen: list[Asked] = []

    async def elsewhere(asked: Asked) -> Answer:
        seen.append(asked)
        return Answer(status=401, headers=[("WWW-Authenticate", challenge.format(port=other))])

    async with serve(elsewhere) as other:

        async def leads(asked: Asked) -> Answer:
            if challenge == "Basic" and "authorization" not in asked.headers:
                return Answer(status=401, headers=[("WWW-Authenticate", "Basic")])
            return Answer(status=307, headers=[("Location", f"http://127.0.0.1:{other}/x")])

        async with serve(leads) as port:
            log_in(f"127.0.0.1:{port}")
            error = await failure_of(Registries(), f"oci://127.0.0.1:{port}/a/b:v1")
    assert "401" in error.why
    assert {asked.path for asked in seen} == {"/x"}
    assert all("authorization" not in asked.headers for asked in seen)
