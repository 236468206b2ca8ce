"""The models behind LitServe, on raw bytes."""

import argparse
import os
from typing import Annotated

import litserve
from fastapi import Body, Response
from raw_models import RawModel, model_paths

N_WORKERS = 2


class RawApi(litserve.LitAPI):
    """The API of one model; each worker process opens its own session."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(api_path=f"/infer/{name}")
        self._path = path

    def setup(self, device: str) -> None:
        self._model = RawModel(self._path, int(os.environ.get("PEER_THREADS", "1")))

    # FastAPI reads the annotation: the body as it is, without JSON.
    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        return request

    def predict(self, body: bytes) -> bytes:
        return self._model.run_bytes(body)

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="application/octet-stream")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    apis = [RawApi(name, path) for name, path in model_paths().items()]
    server = litserve.LitServer(apis, accelerator="cpu", workers_per_device=N_WORKERS, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=parser.parse_args().port,
        num_api_servers=N_WORKERS,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
