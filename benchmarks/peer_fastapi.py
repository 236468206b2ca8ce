"""Peer of Triton: `genre_cnn` behind FastAPI, uvicorn and ONNX Runtime, as one would write it by hand.

    PEER_MODEL=model_repository/genre_cnn/1/model.onnx python -m benchmarks.peer_fastapi --port 8080

Two workers by default, uvloop and httptools. PEER_THREADS is the number of threads of each worker's session: 1, the
best with a worker per core, or 0, ONNX Runtime's default of a thread per core. A request is the float32 samples of one
or more windows as raw bytes; the response is probabilities, emotions and embedding in this order, as raw float32. Only
the length is checked. `load_peer` starts this service.
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
    """Return the application; uvicorn calls this once in each worker."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("PEER_THREADS", "1"))
    session = onnxruntime.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])
    session.run(OUTPUTS, {"audio": np.zeros((1, WINDOW_BYTES // 4), np.float32)})
    app = FastAPI(openapi_url=None)

    @app.get("/ready")
    async def ready() -> Response:
        return Response(str(os.getpid()))

    # Runs on the event loop: with one worker per core, a thread pool would only add context switches.
    @app.post("/infer")
    async def infer(request: Request) -> Response:
        body = await request.body()
        if not body or len(body) % WINDOW_BYTES:
            return Response(f"expected windows of {WINDOW_BYTES} bytes, got {len(body)} bytes", status_code=400)
        audio = np.frombuffer(body, np.float32).reshape(-1, WINDOW_BYTES // 4)
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
        "benchmarks.peer_fastapi:make_app",
        factory=True,
        port=arguments.port,
        workers=arguments.workers,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
