"""One repository of a registry: what a tag means, manifests, and where blobs are."""

from __future__ import annotations

from collections.abc import Collection, MutableMapping, Sequence

import httpx2
import trio

from trio_sup import DigestMismatch, DownloadFailed

from ._authorization import Authorization
from ._documents import ACCEPTED, LARGEST_DOCUMENT, LISTS, MANIFESTS, Descriptor, Document, digest_of
from ._errors import UnusableImage
from ._http import TEMPORARY, TooLong, Tries, asked_to_wait, distrust, in_words, read_bounded, refusal
from ._reference import DIGEST, Reference, may_be_plain

PATIENCE = 120.0
"""Seconds for one small answer, from the request to its last byte."""
TLS_PATIENCE = 5.0
"""Seconds to begin encryption with a registry that may do without: one that has none may just wait for more."""


class Missing(Exception):
    """The registry says that it does not have this; the text says what the registry said."""


class Repository:
    """Asks one repository of a registry.

    Args:
        schemes: By host, whether it speaks ``https`` or ``http``, as far as that was found out; shared like *known*
            of the authorization.
        insecure: Registries that may be talked to without encryption.
        what: What is fetched, for messages.
    """

    def __init__(
        self,
        reference: Reference,
        *,
        client: httpx2.AsyncClient,
        authorization: Authorization,
        schemes: MutableMapping[str, str],
        insecure: Collection[str],
        tries: Tries,
        what: str,
    ) -> None:
        self.client = client
        self.authorization = authorization
        self._reference = reference
        self._schemes = schemes
        self._insecure = insecure
        self._tries = tries
        self._what = what

    async def digest(self) -> str:
        """What the reference means now: ``sha256:…`` of a manifest or a list.

        Raises:
            DownloadFailed: The registry cannot be asked, or does not have it.
        """
        target = self._reference.target
        try:
            response, _ = await self._ask("HEAD", f"manifests/{target}", ACCEPTED, 0)
            told = _told_digest(response)
        except (Missing, _Refused):  # some answer only GET
            told = None
        return told or (await self.manifest(target)).digest

    async def manifest(self, target: str, *, size: int | None = None) -> Document:
        """The manifest or list that *target*, a tag or a digest, means.

        Args:
            size: Bytes that it must have, if that is known.

        Raises:
            DownloadFailed: It cannot be had.
            DigestMismatch: It is not what *target* or the registry says.
            UnusableImage: It is too large.
        """
        try:
            return await self._document(f"manifests/{target}", ACCEPTED, target, size)
        except Missing as missing:
            raise DownloadFailed(self._what, self._not_there(target, missing), temporary=False) from missing

    async def find(self, tag: str) -> Document | None:
        """The manifest that *tag* means, or None if there is no such tag. Raises as `manifest` does."""
        try:
            return await self._document(f"manifests/{tag}", ACCEPTED, tag, None)
        except Missing:
            return None

    async def read(self, descriptor: Descriptor) -> Document:
        """The manifest, list or configuration that *descriptor* points to. Raises as `manifest` does."""
        if descriptor.media_type in LISTS | MANIFESTS:
            return await self.manifest(descriptor.digest, size=descriptor.size)
        data = await self.small_blob(descriptor)
        return Document(data=data, media_type=descriptor.media_type, digest=descriptor.digest)

    async def small_blob(self, descriptor: Descriptor, limit: int = LARGEST_DOCUMENT) -> bytes:
        """What *descriptor* points to, if that has at most *limit* bytes. Raises as `manifest` does."""
        if descriptor.size > limit:
            raise UnusableImage(
                self._what, f"{descriptor.digest} has {descriptor.size} bytes; at most {limit} are read"
            )
        try:
            path = f"blobs/{descriptor.digest}"
            return (await self._document(path, (), descriptor.digest, descriptor.size, limit)).data
        except Missing as missing:
            raise DownloadFailed(self._what, self._not_there(descriptor.digest, missing), temporary=False) from missing

    def blob_url(self, digest: str) -> str:
        """Where a blob is. The scheme has been found out by the request for the manifest."""
        return str(self._url(self._schemes.get(self._reference.host, "https"), f"blobs/{digest}"))

    def explain(self, status: int) -> str | None:
        """What to say where a layer is refused with *status*."""
        if status == 404:
            return f"{self._reference.registry} does not have a layer that its own manifest names"
        if status in (401, 403):
            return self._refused(_Refused(status, str(status)))
        return None

    # ---- one document

    async def _document(
        self, path: str, accept: Sequence[str], target: str, size: int | None, limit: int = LARGEST_DOCUMENT
    ) -> Document:
        try:
            response, data = await self._ask("GET", path, accept, limit)
        except _Refused as refused:
            raise DownloadFailed(self._what, self._refused(refused), temporary=False) from refused
        found = digest_of(data)
        expected = target if DIGEST.fullmatch(target) else _told_digest(response)
        if expected is not None and expected != found:
            raise DigestMismatch(self._what, f"{target} is something else", expected=expected, found=found)
        if size is not None and size != len(data):
            raise DigestMismatch(
                self._what, "its size is another", expected=f"{size} bytes", found=f"{len(data)} bytes"
            )
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        return Document(data=data, media_type=media_type, digest=found)

    async def _ask(self, method: str, path: str, accept: Sequence[str], limit: int) -> tuple[httpx2.Response, bytes]:
        tried = 0
        while True:
            tried += 1
            wait = None
            try:
                with trio.fail_after(PATIENCE):
                    response = await self._send(method, path, accept)
                    if response.status_code == 200:
                        return response, await read_bounded(response, limit)
                    wait = asked_to_wait(response)
                    why = await refusal(response)
                if response.status_code == 404:
                    raise Missing(why)
                if response.status_code not in TEMPORARY:
                    raise _Refused(response.status_code, why)
            except (httpx2.TooManyRedirects, httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                raise DownloadFailed(self._what, f"the registry leads nowhere: {error}", temporary=False) from error
            except (httpx2.TransportError, trio.TooSlowError) as error:
                if untrusted := distrust(error):
                    why = f"the certificate of {self._reference.host} is not trusted: {untrusted}"
                    raise DownloadFailed(self._what, why, temporary=False) from error
                why = in_words(error)
            except TooLong:
                raise UnusableImage(self._what, f"what the registry sent has more than {limit} bytes") from None
            if tried > self._tries.retries:
                raise DownloadFailed(self._what, f"{self._reference.registry} cannot be asked: {why}")
            await trio.sleep(self._tries.wait(tried, wait))

    async def _send(self, method: str, path: str, accept: Sequence[str]) -> httpx2.Response:
        host = self._reference.host
        scheme = self._schemes.get(host)
        if scheme is None and not may_be_plain(host, self._insecure):
            scheme = "https"
        if scheme is None:
            try:
                return await self._send_by("https", method, path, accept, connect=TLS_PATIENCE)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                if distrust(error):
                    raise
                # No TLS there, or nobody at all: the second try tells.
                scheme = "http"
        return await self._send_by(scheme, method, path, accept)

    async def _send_by(
        self, scheme: str, method: str, path: str, accept: Sequence[str], *, connect: float | None = None
    ) -> httpx2.Response:
        # As it is: what is compressed on the way would have to be bounded twice.
        headers = {"Accept-Encoding": "identity", "Accept": ", ".join(accept) or "*/*"}
        usual = self.client.timeout
        timeout = usual if connect is None else httpx2.Timeout(usual.read, connect=connect, pool=None)
        request = self.client.build_request(method, self._url(scheme, path), headers=headers, timeout=timeout)
        response = await self.client.send(request, stream=True, auth=self.authorization, follow_redirects=True)
        if scheme == "https" and response.url.scheme != "https":
            await response.aclose()
            raise DownloadFailed(
                self._what, f"{self._reference.registry} leads to a host without encryption", temporary=False
            )
        self._schemes[self._reference.host] = scheme
        return response

    def _url(self, scheme: str, path: str) -> httpx2.URL:
        return httpx2.URL(f"{scheme}://{self._reference.host}/v2/{self._reference.repository}/{path}")

    # ---- in words

    def _not_there(self, target: str, missing: Missing) -> str:
        kind = "digest" if DIGEST.fullmatch(target) else "tag"
        return f"{self._reference.name} has no {kind} {target!r}, or it is not for everybody to see: {missing}"

    def _refused(self, refused: _Refused) -> str:
        if refused.status not in (401, 403):
            return f"{self._reference.registry} answered {refused}"
        return (
            f"{self._reference.registry} does not let us read {self._reference.repository}: {refused}. "
            f"`docker login {self._reference.registry}` keeps credentials where they are found."
        )


class _Refused(Exception):
    """The registry will not do it, now or later."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def _told_digest(response: httpx2.Response) -> str | None:
    told = response.headers.get("docker-content-digest", "").strip()
    return told if DIGEST.fullmatch(told) else None
