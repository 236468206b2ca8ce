"""The fuzzed server: a repository of tiny models, and checks of its processes and responses."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from tests.integration import composer_stand_in, conftest
from tests.support import music_models, recommender_artifacts

from benchmarks.fuzzing.requests import valid_inputs
from tritone.endpoints import make_endpoint
from tritone_export.config import limits_text
from tritone_serving import CanaryError, TritonServer
from tritone_serving.calls import Array, Calls
from tritone_serving.supervision.processes import stubs_of
from tritone_training.kinds.genre_cnn import declaration as genre_cnn
from tritone_training.kinds.taste_vae import declaration as taste_vae

MUSIC: Final = ("polyphony_rnn", "music_transformer", "music_vae", "music_gan")
TOLERANCE: Final = 1e-3  # of floats; other outputs must be equal
_TIMEOUT_S: Final = 90.0  # long, since a busy machine is not an error
_PAGE_MB: Final = 4096 / 1e6
_PAUSE_S: Final = 0.2  # between two requests of the bystander


def make_repository(folder: Path, *, music: bool) -> Path:
    """Write a repository with `genre_cnn`, a recommender, `taste_vae`, the ensemble and generative models.

    Args:
        folder: for the repository and intermediate files.
        music: train and export tiny generative models, which takes two minutes; otherwise use a stand-in.
    """
    path = folder / "repository"
    conftest.make_repository(path)
    key = folder / "recommender.key"
    n_taste = recommender_artifacts.N_TASTE
    artifact = recommender_artifacts.make_artifact(folder / "artifact", key, n_taste=n_taste)
    recommender_artifacts.make_taste(path)
    recommender_artifacts.publish(artifact, key, path)
    _add_parameters(path / "genre_cnn", {"limits": limits_text(genre_cnn.DECLARATION.inputs)})
    _add_parameters(
        path / "taste_vae", {"limits": limits_text(taste_vae.DECLARATION.inputs), taste_vae.N_ITEMS: str(n_taste)}
    )
    if not music:
        composer_stand_in.make_repository(path)
        return path
    for kind in MUSIC:
        for result in music_models.served(kind).results:
            shutil.copytree(music_models.served(kind).repository / result.model, path / result.model)
    return path


def _add_parameters(folder: Path, parameters: Mapping[str, str]) -> None:
    """Add the parameters that an export of the kind has to a stand-in."""
    config = folder / "config.pbtxt"
    text = config.read_text()
    for key, value in parameters.items():
        text += f'\nparameters {{ key: "{key}" value {{ string_value: {json.dumps(value)} }} }}\n'
    config.write_text(text)


@dataclass(frozen=True)
class Canaries:
    """Requests to each model with recorded responses."""

    asked: Mapping[str, list[tuple[Mapping[str, Array], Mapping[str, Array]]]]
    configs: Mapping[str, Any]

    @property
    def n(self) -> int:
        """Number of canaries per model."""
        return min(len(each) for each in self.asked.values())


def record(server: TritonServer, n: int) -> Canaries:
    """Send n canaries to each model and record the responses."""
    rng = np.random.default_rng(0)
    with Calls(make_endpoint(server.grpc_url)) as calls:
        configs = {model: calls.config(model, timeout_s=_TIMEOUT_S) for model in server.models}
        asked = {}
        for model, config in configs.items():
            asked[model] = [
                (inputs, _ask(calls, config, inputs)) for inputs in (valid_inputs(config, rng) for _ in range(n))
            ]
    return Canaries(asked, configs)


def compare(calls: Calls, canaries: Canaries, model: str, place: int) -> str | None:
    """Send a canary again and return what is wrong with the response, else None."""
    inputs, before = canaries.asked[model][place]
    try:
        now = _ask(calls, canaries.configs[model], inputs)
    except CanaryError as error:
        return str(error)
    for name, wanted in before.items():
        got = now.get(name)
        if got is None or got.shape != wanted.shape:
            return f"{model}: output {name} was {wanted.shape} and is {None if got is None else got.shape}"
        is_float = wanted.dtype.kind == "f"
        if not (np.allclose(got, wanted, atol=TOLERANCE, rtol=TOLERANCE) if is_float else np.array_equal(got, wanted)):
            return f"{model}: output {name} differs from what it was before"
    return None


def _ask(calls: Calls, config: Any, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    decoupled = config.model_transaction_policy.decoupled
    return calls.infer(config.name, inputs, timeout_s=_TIMEOUT_S, decoupled=decoupled).outputs


@dataclass
class Processes:
    """The processes of a server, and their memory at each check."""

    server: int
    stubs: Mapping[int, str]
    memory_mb: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, server: TritonServer) -> Processes:
        """Return the current processes."""
        return cls(server.pid, {stub.pid: stub.model for stub in stubs_of(server.pid)})

    def look(self, server: TritonServer) -> list[str]:
        """Return the changes since the last check, and record the memory."""
        now = Processes.of(server)
        self.memory_mb.append(sum(_resident_mb(pid) for pid in (now.server, *now.stubs)))
        changed = (
            [f"the process id of the server changed from {self.server} to {now.server}"]
            if now.server != self.server
            else []
        )
        changed += [f"{model}: process {pid} ended" for pid, model in self.stubs.items() if pid not in now.stubs]
        changed += [f"{model}: process {pid} is new" for pid, model in now.stubs.items() if pid not in self.stubs]
        self.server, self.stubs = now.server, now.stubs
        return changed


def _resident_mb(pid: int) -> float:
    try:
        # Without shared pages, since those of /dev/shm would count for each process.
        n_pages, n_shared = (int(number) for number in Path(f"/proc/{pid}/statm").read_text().split()[1:3])
    except OSError:
        return 0.0
    return (n_pages - n_shared) * _PAGE_MB


class Bystander:
    """A client that sends valid requests all the time and checks the responses."""

    def __init__(self, server: TritonServer, canaries: Canaries) -> None:
        self.n_asked = 0
        self.wrong: list[str] = []
        self._canaries = canaries
        self._calls = Calls(make_endpoint(server.grpc_url))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_TIMEOUT_S)
        self._calls.close()

    def _run(self) -> None:
        rng = np.random.default_rng(1)
        models = sorted(self._canaries.asked)
        while not self._stop.wait(_PAUSE_S):
            model = models[self.n_asked % len(models)]
            wrong = compare(self._calls, self._canaries, model, int(rng.integers(0, self._canaries.n)))
            self.n_asked += 1
            if wrong is not None:
                self.wrong.append(f"bystander: {wrong}")
