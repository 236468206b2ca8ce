"""A gateway process in front of a server, and a repository with a small model for each of its routes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import music_models, recommender_artifacts

from tritone_export.ensembles import publish_ensemble
from tritone_training.kinds.recommender.inspire import INSPIRE

KINDS = ("music_transformer", "music_vae", "music_gan", "polyphony_rnn")


def music_repository(folder: Path) -> Path:
    """Fill a folder with the models that work on scores, a recommender and `inspire`; `genre_cnn` is not among them."""
    for kind in KINDS:
        served = music_models.served(kind)
        for result in served.results:
            shutil.copytree(served.repository / result.model, folder / result.model, dirs_exist_ok=True)
    key_file = folder.parent / "pseudonyms.key"
    artifact = recommender_artifacts.make_artifact(folder.parent / "artifact", key_file)
    recommender_artifacts.make_taste(folder)
    recommender_artifacts.publish(artifact, key_file, folder, ensembles=False)
    publish_ensemble(INSPIRE, folder)
    return folder


@contextmanager
def gateway_process(server: str, keys: Path, *options: str) -> Iterator[str]:
    """Run `tritone gateway` and yield its URL; it must stop by itself."""
    command = [
        *(sys.executable, "-m", "tritone_cli", "gateway", "--server", server, "--port", "0", "--json"),
        *("--keys-file", str(keys), "--drain", "0.2", *options),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # Nobody reads its log, which must not stop it.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            facts: dict[str, Any] = json.loads(line)
            yield facts["url"]
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        finally:
            process.kill()
