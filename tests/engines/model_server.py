"""A Triton server in a process of the environment that has Triton, with tiny models."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The environment of `make test`; `make test-engines` sets it.
PYTHON = os.environ.get("TRITONE_TEST_SERVER_PYTHON", str(ROOT / ".venv/bin/python"))


READY = "ready\n"


class ModelServer:
    """A server of `genre_cnn` and `recommender` that can be stopped and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [PYTHON, "-m", "tests.engines.model_server", str(self.folder), str(self.port)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        said = []
        for line in self._process.stdout:
            if line == READY:
                return
            said.append(line)
        self.stop()
        raise AssertionError(f"{command} ended: {said}")

    def stop(self) -> None:
        if self._process:
            self._process.communicate()  # it ends with its input
            self._process = None


def main() -> None:
    from tests.integration.conftest import make_repository
    from tests.support import recommender_models

    from tritone_serving import ServerOptions, TritonServer

    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    models, state = folder / "models", folder / "state"
    if not models.exists():
        make_repository(models)
        shutil.copytree(recommender_models.served("recommender").repository, models, dirs_exist_ok=True)
        shutil.copytree(recommender_models.state_folder(), state)
    os.environ["XDG_STATE_HOME"] = str(state)  # with the key of the users' pseudonyms
    options = ServerOptions(repository=models, grpc_port=port, http_port=0, metrics_port=0, stop_timeout_s=1.0)
    with TritonServer.start(options):
        print(READY, end="", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
