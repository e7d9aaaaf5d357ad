"""A vector store in memory: ``python -m trio_sup.backends.store --addr host:port``."""

from __future__ import annotations

import asyncio

from ..protocol import backend_pb2 as pb
from ._main import run
from ._server import Abort, BackendServer
from ._vectors import Entry, Vectors


class Store(BackendServer):
    """A vector store in memory, searched by cosine similarity."""

    def __init__(self) -> None:
        super().__init__()
        self._vectors = Vectors()

    async def StoresSet(self, request: pb.StoresSetOptions) -> pb.Result:
        try:
            self._vectors.set([key.Floats for key in request.Keys], [value.Bytes for value in request.Values])
        except ValueError as error:
            raise Abort("INVALID_ARGUMENT", str(error)) from error
        return pb.Result(success=True)

    async def StoresGet(self, request: pb.StoresGetOptions) -> pb.StoresGetResult:
        found = self._vectors.get(key.Floats for key in request.Keys)
        return pb.StoresGetResult(Keys=map(_key, found), Values=map(_value, found))

    async def StoresDelete(self, request: pb.StoresDeleteOptions) -> pb.Result:
        self._vectors.delete(key.Floats for key in request.Keys)
        return pb.Result(success=True)

    async def StoresFind(self, request: pb.StoresFindOptions) -> pb.StoresFindResult:
        try:
            find = self._vectors.search(request.Key.Floats, request.TopK)
        except ValueError as error:
            raise Abort("INVALID_ARGUMENT", str(error)) from error
        matches = await asyncio.to_thread(find)
        found = [match.entry for match in matches]
        return pb.StoresFindResult(
            Keys=map(_key, found), Values=map(_value, found), Similarities=[match.similarity for match in matches]
        )


def _key(entry: Entry) -> pb.StoresKey:
    return pb.StoresKey(Floats=entry.key)


def _value(entry: Entry) -> pb.StoresValue:
    return pb.StoresValue(Bytes=entry.value)


if __name__ == "__main__":
    run(Store())
