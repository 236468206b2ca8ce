"""The honest rival: `genre_cnn` behind FastAPI, uvicorn and ONNX Runtime, written by hand as one would without Triton.

    RIVAL_MODEL=model_repository/genre_cnn/1/model.onnx .venv/bin/python benchmarks/fastapi_rival.py --port 8080

Two workers by default (one a core here), uvloop and httptools. RIVAL_THREADS threads in each worker's session: 1, the
best where there is a worker a core, or 0, ONNX Runtime's default of a thread a core, which two workers fight over. A
request is a window's float32 samples as raw bytes; the answer is probabilities, emotions and embedding, one after the
other, as raw float32. Nothing is parsed that need not be, nothing is checked but the length. `rival_load.py` starts it.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request, Response

WINDOW_BYTES = 4 * 66_150
OUTPUTS = ("probabilities", "emotions", "embedding")


def make_app() -> FastAPI:
    """What each worker runs; uvicorn calls it once in each."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("RIVAL_THREADS", "1"))
    session = onnxruntime.InferenceSession(os.environ["RIVAL_MODEL"], options, providers=["CPUExecutionProvider"])
    session.run(OUTPUTS, {"audio": np.zeros((1, WINDOW_BYTES // 4), np.float32)})
    app = FastAPI(openapi_url=None)

    @app.get("/ready")
    async def ready() -> Response:
        return Response(str(os.getpid()))

    # Runs on the event loop: with a worker a core and one thread each, a thread pool would only add a switch.
    @app.post("/infer")
    async def infer(request: Request) -> Response:
        body = await request.body()
        if len(body) != WINDOW_BYTES:
            return Response(f"{len(body)} bytes; expected {WINDOW_BYTES}", status_code=400)
        audio = np.frombuffer(body, np.float32).reshape(1, -1)
        answers = session.run(OUTPUTS, {"audio": audio})
        return Response(b"".join(answer.tobytes() for answer in answers), media_type="application/octet-stream")

    return app


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    uvicorn.run(
        "fastapi_rival:make_app",
        factory=True,
        app_dir=os.path.dirname(os.path.abspath(__file__)),  # noqa: PTH100, PTH120 - uvicorn wants text
        port=arguments.port,
        workers=arguments.workers,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
