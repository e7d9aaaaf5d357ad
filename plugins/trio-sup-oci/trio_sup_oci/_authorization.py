"""How a registry is shown who asks: Basic, or a token of the server that it names."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncGenerator, Collection, MutableMapping
from typing import Any, NoReturn
from urllib.parse import urlencode

import attrs
import httpx2
import trio

from trio_sup import DownloadFailed, InvalidValue

from ._challenge import Challenge, parse_challenges
from ._credentials import Credentials, credentials_for
from ._errors import UnusableCredentials
from ._http import (
    LARGEST_REFUSAL,
    TEMPORARY,
    BoundedStream,
    TooLong,
    Tries,
    asked_to_wait,
    in_words,
    read_bounded,
    refusal,
)
from ._reference import Reference, may_be_plain, registry_name

CLIENT = "trio-sup"
USUAL_LIFE = 60.0
"""Seconds that a token is good for if its server does not say. Source: the token specification of the distribution
project, as are the parameters of the requests."""
LONGEST_LIFE = 24 * 3600.0
MARGIN = 0.1
"""Share of a token's life at whose end it is not used any more."""
LARGEST_ANSWER = 2**20
PATIENCE = 60.0
"""Seconds that a token server may take for one answer."""


@attrs.frozen
class Shown:
    """What is sent as ``Authorization``, and until when (`time.monotonic`) it is good."""

    header: str = attrs.field(repr=False)
    until: float = float("inf")


Known = MutableMapping[tuple[str, str], Shown]
"""By host and scope."""


class Authorization(httpx2.Auth):
    """Authenticates the requests to one repository, and to no other host.

    A first request goes without; what answers the challenge is kept in *known*, and renewed when it is refused.
    Redirects to other hosts are followed below this, by the client, which drops the header.

    Args:
        client: For requests to token servers.
        known: What was obtained before; shared by all repositories of a source.
        insecure: Registries that may be talked to without encryption.
        what: What is fetched, for messages.
    """

    def __init__(
        self,
        reference: Reference,
        *,
        client: httpx2.AsyncClient,
        known: Known,
        insecure: Collection[str],
        tries: Tries,
        what: str,
    ) -> None:
        self._reference = reference
        self._client = client
        self._known = known
        self._insecure = insecure
        self._tries = tries
        self._what = what
        self._scope = f"repository:{reference.repository}:pull"
        self._key = (reference.host, self._scope)

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        if not self._is_ours(request.url):
            yield request
            return
        sent = self._current()
        if sent is not None:
            request.headers["Authorization"] = sent
        response = yield request
        # After a redirect somebody else may have refused.
        if response.status_code != 401 or not self._is_ours(response.url):
            return
        # The client reads what comes back before it sends the next request, and would read all of it.
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = BoundedStream(response.stream, LARGEST_REFUSAL)
        response.headers.pop("content-encoding", None)
        fresh = await self._answer(parse_challenges(response.headers.get_list("www-authenticate")), sent)
        if fresh is not None:
            request.headers["Authorization"] = fresh
            yield request

    def _is_ours(self, url: httpx2.URL) -> bool:
        own = httpx2.URL(f"{url.scheme}://{self._reference.host}")
        encrypted = url.scheme == "https" or may_be_plain(self._reference.host, self._insecure)
        return encrypted and (own.host, own.port) == (url.host, url.port)

    def _current(self) -> str | None:
        shown = self._known.get(self._key)
        return shown.header if shown is not None and time.monotonic() < shown.until else None

    async def _answer(self, challenges: Collection[Challenge], sent: str | None) -> str | None:
        """What to send instead; None if there is nothing else to try."""
        if (current := self._current()) not in (None, sent):
            return current  # somebody who fetches another part has renewed it meanwhile
        try:
            credentials = await credentials_for(self._reference)
        except UnusableCredentials as error:
            self._fail(str(error), error)
        offered = {challenge.scheme: challenge for challenge in reversed(tuple(challenges))}
        if credentials is not None and credentials.registry_token:
            shown = Shown(f"Bearer {credentials.registry_token}")
        elif "bearer" in offered:
            shown = await self._token(offered["bearer"], credentials)
        elif "basic" in offered:
            if credentials is None or not credentials.username:
                return None
            shown = Shown(_basic(credentials))
        else:
            known = ", ".join(offered) or "nothing"
            self._fail(f"{self._reference.registry} asks for an authentication that is not known here ({known})")
        if shown.header == sent:
            return None
        self._known[self._key] = shown
        return shown.header

    # ---- tokens

    async def _token(self, challenge: Challenge, credentials: Credentials | None) -> Shown:
        realm = self._realm(challenge.parameters.get("realm", ""))
        # What it asks for, and what is needed in any case.
        scopes = list(dict.fromkeys([*challenge.parameters.get("scope", "").split(), self._scope]))
        service = challenge.parameters.get("service", "")
        tried = 0
        while True:
            tried += 1
            request = self._token_request(realm, service, scopes, credentials)
            wait = None
            try:
                with trio.fail_after(PATIENCE):
                    response = await self._client.send(request, stream=True, auth=None, follow_redirects=False)
                    if response.status_code == 200:
                        return self._shown(await read_bounded(response, LARGEST_ANSWER), realm)
                    wait = asked_to_wait(response)
                    why = await refusal(response)
                if response.status_code not in TEMPORARY:
                    hint = (
                        "" if credentials else f"; `docker login {self._reference.registry}` keeps credentials for it"
                    )
                    self._fail(f"the token server {realm.host} refused: {why}{hint}")
            except (httpx2.TransportError, trio.TooSlowError) as error:
                why = in_words(error)
            except TooLong:
                self._fail(f"the token server {realm.host} answered with more than {LARGEST_ANSWER} bytes")
            if tried > self._tries.retries:
                raise DownloadFailed(self._what, f"the token server {realm.host} gave no token: {why}")
            await trio.sleep(self._tries.wait(tried, wait))

    def _realm(self, text: str) -> httpx2.URL:
        try:
            url = httpx2.URL(text)
            host = registry_name(url.netloc.decode("ascii"))
        except (httpx2.InvalidURL, InvalidValue):
            url, host = httpx2.URL(""), ""
        if url.scheme not in ("http", "https") or url.userinfo:
            self._fail(f"{self._reference.registry} names a token server that is none: {text!r:.200}")
        if url.scheme == "http" and not may_be_plain(host, self._insecure):
            # Credentials would go over the wire for everybody to read.
            self._fail(
                f"{self._reference.registry} names a token server without encryption, {url.host}; that is allowed "
                "only on this machine, and for what `insecure_registries` lists"
            )
        return url

    def _token_request(
        self, realm: httpx2.URL, service: str, scopes: list[str], credentials: Credentials | None
    ) -> httpx2.Request:
        named = [("service", service)] if service else []
        if credentials is not None and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "client_id": CLIENT,
                **dict(named),
                "scope": " ".join(scopes),
                "refresh_token": credentials.identity_token,
            }
            return self._client.build_request("POST", realm, data=form)
        parameters = urlencode([*named, *(("scope", scope) for scope in scopes)]).encode()
        url = realm.copy_with(query=b"&".join(part for part in (realm.query, parameters) if part))
        headers = {"Authorization": _basic(credentials)} if credentials is not None and credentials.username else {}
        return self._client.build_request("GET", url, headers=headers)

    def _shown(self, body: bytes, realm: httpx2.URL) -> Shown:
        try:
            table = json.loads(body)
        except (ValueError, RecursionError):
            table = None
        if not isinstance(table, dict):
            self._fail(f"the answer of the token server {realm.host} is no JSON object")
        token = table.get("access_token") or table.get("token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            self._fail(f"the answer of the token server {realm.host} has no token")
        return Shown(f"Bearer {token}", time.monotonic() + _life(table.get("expires_in")) * (1 - MARGIN))

    def _fail(self, why: str, cause: BaseException | None = None) -> NoReturn:
        raise DownloadFailed(self._what, why, temporary=False) from cause


def _life(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
        return float(min(value, LONGEST_LIFE))
    return USUAL_LIFE


def _basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}".encode()
    return "Basic " + base64.b64encode(pair).decode("ascii")
