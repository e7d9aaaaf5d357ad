"""A backend as an author writes it with trio_sup.backends; prompts say how it behaves."""

import asyncio

from trio_sup.backends import Abort, BackendServer, run
from trio_sup.protocol import backend_pb2 as pb


class Author(BackendServer):
    """Echoes."""

    async def LoadModel(self, request):
        return pb.Result(success=request.Model != "broken", message="loaded")

    async def Predict(self, request):
        if request.Prompt == "abort":
            raise Abort("FAILED_PRECONDITION", "model not loaded")
        if request.Prompt == "raise":
            raise LookupError("a bug of mine")
        if request.Prompt.startswith("sleep"):
            print("asleep", flush=True)
            await asyncio.sleep(float(request.Prompt.split()[1]))
        if request.Prompt.startswith("size"):
            return pb.Reply(message=bytes(int(request.Prompt.split()[1])))
        return pb.Reply(message=request.Prompt.encode())

    async def PredictStream(self, request):
        for number in range(request.Tokens):
            yield pb.Reply(tokens=number)
        if request.Prompt == "abort":
            raise Abort("RESOURCE_EXHAUSTED", "no more")

    async def Forward(self, requests):
        async for request in requests:
            yield pb.ForwardReply(body_chunk=request.body_chunk[::-1])


if __name__ == "__main__":
    run(Author())
