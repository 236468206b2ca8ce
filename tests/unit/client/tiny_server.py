"""A server of one model in a process of its own, so that a test can kill it.

python tiny_server.py grpc|http PORT [HOST]
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WINDOW = 66_150
SIZES = {"probabilities": 2, "emotions": 9, "embedding": 256}
WORK_S = 0.01


def numbers(name: str, n_windows: int) -> bytes:
    """One output's tensor: the same for every window."""
    import array

    size = SIZES[name]
    row = [1.0] + [0.0] * (size - 1) if name == "embedding" else [1 / size] * size
    return array.array("f", row * n_windows).tobytes()


def serve_grpc(port: int, host: str) -> None:
    import grpc
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc import service_pb2_grpc

    class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ServerReady(self, _request: Any, _context: Any) -> Any:  # noqa: N802
            return pb.ServerReadyResponse(ready=True)

        def ModelMetadata(self, request: Any, _context: Any) -> Any:  # noqa: N802
            answer = pb.ModelMetadataResponse(name=request.name, versions=["1"])
            answer.inputs.add(name="audio", datatype="FP32", shape=[-1, WINDOW])
            for name, size in SIZES.items():
                answer.outputs.add(name=name, datatype="FP32", shape=[-1, size])
            return answer

        def ModelConfig(self, _request: Any, _context: Any) -> Any:  # noqa: N802
            answer = pb.ModelConfigResponse()
            answer.config.max_batch_size = 8
            return answer

        def ModelInfer(self, request: Any, _context: Any) -> Any:  # noqa: N802
            time.sleep(WORK_S)
            n_windows = request.inputs[0].shape[0]
            answer = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
            for name, size in SIZES.items():
                answer.outputs.add(name=name, datatype="FP32", shape=[n_windows, size])
                answer.raw_output_contents.append(numbers(name, n_windows))
            return answer

        def ModelStreamInfer(self, requests: Any, context: Any) -> Any:  # noqa: N802
            for request in requests:
                while context.is_active():
                    yield pb.ModelStreamInferResponse(infer_response=self.ModelInfer(request, context))

    server = grpc.server(ThreadPoolExecutor(8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(), server)
    server.add_insecure_port(f"{host}:{port}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


class TinyHandler(BaseHTTPRequestHandler):
    """Answers requests for metadata and for inference by HTTP."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: Any) -> None:
        pass

    def answer(self, head: Any, tail: bytes = b"", *, status: int = 200) -> None:
        body = json.dumps(head).encode()
        self.send_response(status)
        if tail:
            self.send_header("Inference-Header-Content-Length", str(len(body)))
        self.send_header("Content-Length", str(len(body) + len(tail)))
        self.end_headers()
        self.wfile.write(body + tail)

    def do_GET(self) -> None:
        if self.path.endswith("/config"):
            return self.answer({"max_batch_size": 8})
        outputs = [{"name": name, "shape": [-1, size]} for name, size in SIZES.items()]
        inputs = [{"name": "audio", "shape": [-1, WINDOW]}]
        return self.answer({"name": "genre_cnn", "versions": ["1"], "inputs": inputs, "outputs": outputs})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        head = json.loads(body[: int(self.headers["inference-header-content-length"])])
        time.sleep(WORK_S)
        n_windows = head["inputs"][0]["shape"][0]
        tensors = {name: numbers(name, n_windows) for name in SIZES}
        outputs = [
            {
                "name": name,
                "datatype": "FP32",
                "shape": [n_windows, SIZES[name]],
                "parameters": {"binary_data_size": len(data)},
            }
            for name, data in tensors.items()
        ]
        answered = {"model_name": "genre_cnn", "model_version": "1", "id": head["id"], "outputs": outputs}
        self.answer(answered, b"".join(tensors.values()))


class TinyHttpServer(ThreadingHTTPServer):
    request_queue_size = 128  # of 5 connections waiting, the sixth would be reset
    daemon_threads = True


def serve_http(port: int, host: str) -> None:
    server = TinyHttpServer((host, port), TinyHandler)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    {"grpc": serve_grpc, "http": serve_http}[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:] or ["127.0.0.1"])
