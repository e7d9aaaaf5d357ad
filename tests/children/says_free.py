"""A proper backend that says when Free is called; `--hang` then never answers it."""

import asyncio
import sys

from trio_sup.backends import BackendServer, run
from trio_sup.protocol import backend_pb2


class SaysFree(BackendServer):
    async def Free(self, request: backend_pb2.HealthMessage) -> backend_pb2.Result:
        print("Free was called", flush=True)
        if HANG:
            await asyncio.Event().wait()
        return await super().Free(request)


HANG = "--hang" in sys.argv
sys.argv = [part for part in sys.argv if part != "--hang"]
run(SaysFree())
