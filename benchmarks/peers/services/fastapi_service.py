"""The models behind FastAPI, uvicorn and ONNX Runtime, as one would write it by hand.

    PEER_MODELS='{"genre_cnn": "model_repository/genre_cnn/1/model.onnx"}' python fastapi_service.py --port 8080

Two workers by default, uvloop and httptools. `POST /infer/MODEL` takes and returns raw bytes, see `RawModel`.
"""

from __future__ import annotations

import argparse
import os

import uvicorn
from fastapi import FastAPI, Request, Response
from raw_models import open_models


def make_app() -> FastAPI:
    """Return the application; uvicorn calls this once in each worker."""
    models = open_models()
    app = FastAPI(openapi_url=None)

    @app.get("/ready")
    async def ready() -> Response:
        return Response(str(os.getpid()))

    # Runs on the event loop: with one worker per core, a thread pool would only add context switches.
    @app.post("/infer/{model}")
    async def infer(model: str, request: Request) -> Response:
        if model not in models:
            return Response(f"no model {model!r}; expected one of: {', '.join(models)}", status_code=404)
        try:
            outputs = models[model].run_bytes(await request.body())
        except ValueError as error:
            return Response(str(error), status_code=400)
        return Response(outputs, media_type="application/octet-stream")

    return app


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    uvicorn.run(
        "fastapi_service:make_app",
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
