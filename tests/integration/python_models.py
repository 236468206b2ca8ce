"""A small Python model that can be told to break, and a server that is watched, for tests of what happens then."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tritone.endpoints import make_endpoint
from tritone_serving import CanaryError, ServerOptions, TritonServer
from tritone_serving.calls import Answer, Calls
from tritone_serving.supervision.metrics import SupervisorMetrics
from tritone_serving.supervision.options import SupervisionOptions
from tritone_serving.supervision.processes import stubs_of
from tritone_serving.supervision.watchdog import Watchdog

HANG, DIE = 1001.0, 1002.0
MODEL = """
import os, time
from pathlib import Path
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        self.folder = Path(args["model_repository"])
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            if x[0, 0] == 1001.0:
                time.sleep(3600)
            if x[0, 0] == 1002.0 or (self.folder / "die").exists():
                os._exit(3)
            if x[0, 0] >= 2000.0:  # computes for so many seconds beyond
                until = time.monotonic() + float(x[0, 0]) - 2000.0
                while time.monotonic() < until:
                    pass
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", x + np.float32(1))]))
        return answers
"""
CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 4
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 1 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: {count} }} ]
"""


def make_repository(path: Path, **counts: int) -> Path:
    """Write models by name, each with so many instances."""
    for name, count in counts.items():
        (path / name / "1").mkdir(parents=True)
        (path / name / "1" / "model.py").write_text(MODEL)
        (path / name / "config.pbtxt").write_text(CONFIG.format(name=name, count=count))
    return path


def wait_until(condition: Callable[[], bool], timeout_s: float) -> float:
    """Wait; answers the seconds that it took, infinity if it did not come true."""
    begun_s = time.monotonic()
    while not condition():
        if time.monotonic() - begun_s > timeout_s:
            return float("inf")
        time.sleep(0.02)
    return time.monotonic() - begun_s


class Watched:
    """A server under a watchdog in a thread of its own; as `Watchdog` itself otherwise."""

    def __init__(
        self,
        repository: Path,
        *,
        server: Mapping[str, Any] | None = None,
        metrics: SupervisorMetrics | None = None,
        **supervision: Any,
    ) -> None:
        # A channel that a test holds open keeps a server from stopping at once.
        usual = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "stop_timeout_s": 2}
        options = ServerOptions(repository=repository, **{**usual, **(server or {})})
        self.said: list[str] = []
        self.levels: list[str] = []
        self.ended: BaseException | None = None
        self._stopping = False
        self.dog = Watchdog(
            TritonServer.start(options),
            report=self._report,
            options=SupervisionOptions(**supervision),
            metrics=metrics,
        )
        self.grpc_url = self.server.grpc_url
        self.calls = Calls(make_endpoint(self.grpc_url, api_key=options.api_key))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def server(self) -> TritonServer:
        return self.dog.server

    def ask(self, model: str, x: float = 1.0, timeout_s: float = 5.0) -> float:
        answer = self.calls.infer(model, {"x": np.full((1, 1), x, np.float32)}, timeout_s=timeout_s)
        return float(answer.outputs["y"][0, 0])

    def answers(self, model: str) -> bool:
        try:
            return self.ask(model, timeout_s=0.5) == 2.0
        except CanaryError:
            return False

    def noticed(self, *words: str, timeout_s: float = 10.0) -> float:
        """Seconds until a line with all of these words is said."""
        return wait_until(lambda: any(all(word in line for word in words) for line in self.said), timeout_s)

    def stop(self) -> None:
        self._stopping = True
        self._thread.join(20)
        self.calls.close()

    def _run(self) -> None:
        look = self.dog._look

        def look_until_stopped() -> None:
            if self._stopping:
                raise KeyboardInterrupt
            look()

        self.dog._look = look_until_stopped  # type: ignore[method-assign]
        try:
            self.dog.run()
        except BaseException as error:  # also the KeyboardInterrupt above
            self.ended = error

    def _report(self, level: str, line: str) -> None:
        self.said.append(line)
        self.levels.append(level)


def stub_of(dog: Watched, model: str) -> int:
    """Return the process id of one of the model's Python processes."""
    return next(stub.pid for stub in stubs_of(dog.server.pid) if stub.model == model and not stub.stopped)


@contextmanager
def watched(repository: Path, **supervision: Any) -> Iterator[Watched]:
    made = Watched(repository, **supervision)
    try:
        yield made
    finally:
        made.stop()


class Clients:
    """Clients that ask one model all the time and count what they get, by version or by failure."""

    def __init__(
        self,
        grpc_url: str,
        model: str,
        inputs: Callable[[], Any],
        *,
        is_right: Callable[[Any, Answer], bool] = lambda inputs, answer: True,
        n: int = 3,
    ) -> None:
        self.got: Counter[str] = Counter()
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._calls = Calls(make_endpoint(grpc_url))
        self._model, self._inputs, self._is_right = model, inputs, is_right
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(n)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
        self._calls.close()

    def _ask(self) -> None:
        while not self._stop.is_set():
            inputs = self._inputs()
            try:
                answer = self._calls.infer(self._model, inputs, timeout_s=15)
            except CanaryError as error:
                self.errors.append(str(error))
                time.sleep(0.05)
            else:
                self.got[answer.version if self._is_right(inputs, answer) else f"wrong {answer.version}"] += 1
