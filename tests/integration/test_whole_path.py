"""From recordings on disk to what the SDK hears: every part is the real one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tritone import MusicClient
from tritone.audio import iter_windows
from tritone.constants import SAMPLE_RATE_HZ
from tritone_export import check_repository, export_model
from tritone_serving import ServerOptions, TritonServer
from tritone_training import TrainRequest, get_kind
from tritone_training.kinds.genre_cnn.network import load_network

pytestmark = pytest.mark.triton
LABELS = ("high", "low")


@dataclass(frozen=True)
class Whole:
    data: Path
    checkpoint: Path
    repository: Path
    server: TritonServer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    root = tmp_path_factory.mktemp("whole")
    data = root / "recordings"
    _write_recordings(data)
    kind = get_kind("genre_cnn")
    learn = {"crops_per_recording": 8, "mixup_alpha": 0.0, "label_smoothing": 0.0}
    kind.train(TrainRequest(out=root / "run", data=data, preset="tiny", max_epochs=8, overrides=learn, progress=False))
    repository = root / "models"
    export_model(kind.export(root / "run"), kind, repository=repository)
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, stop_timeout_s=1)
    with TritonServer.start(options) as server:
        yield Whole(data, root / "run", repository, server)


def _write_recordings(folder: Path) -> None:
    """A folder per label: low and high tones in noise, each its own, at 44.1 kHz in stereo."""
    random = np.random.default_rng(0)
    times_s = np.arange(int(4.5 * 44_100)) / 44_100
    for label, low_hz, high_hz in (("low", 80, 200), ("high", 1500, 4000)):
        (folder / label).mkdir(parents=True)
        for index in range(10):
            tone = 0.3 * np.sin(2 * np.pi * random.uniform(low_hz, high_hz) * times_s)
            sound = tone[:, None] + 0.02 * random.standard_normal((times_s.size, 2))
            soundfile.write(folder / label / f"{index}.flac", sound, 44_100)


def test_what_is_served_is_what_was_trained(whole: Whole) -> None:
    # No skew between training and serving: file -> SDK -> Triton against file -> windows -> PyTorch.
    import torch

    network, info = load_network(whole.checkpoint)
    path = whole.data / "low" / "3.flac"
    windows = np.stack([window.samples for window in iter_windows(path)])
    with torch.inference_mode():
        probabilities, _, embedding = (t.numpy() for t in network(torch.from_numpy(windows)))
    for url in (whole.server.grpc_url, whole.server.http_url):
        with MusicClient(url) as music:
            answer = music.classify(path)
        expected = dict(zip(info["labels"], probabilities.mean(0).tolist(), strict=True))
        assert answer.probabilities == pytest.approx(expected, abs=1e-4)
        assert len(answer.timeline) == len(windows) == 2
        mean = embedding.mean(0)
        np.testing.assert_allclose(answer.embedding, mean / np.linalg.norm(mean), atol=1e-4)


def test_it_hears_the_difference(whole: Whole) -> None:
    with MusicClient(whole.server.grpc_url) as music:
        heard = {label: music.classify(whole.data / label / "0.flac").label for label in LABELS}
    assert heard == {label: label for label in LABELS}


def test_a_model_without_emotions_says_so(whole: Whole) -> None:
    with MusicClient(whole.server.grpc_url) as music:
        assert music.classify(whole.data / "low" / "0.flac").emotions is None
    card = json.loads((whole.repository / "genre_cnn" / "1" / "model_card.json").read_text())
    assert card["emotions_trained"] is False


def test_the_repository_is_clean_and_its_card_complete(whole: Whole) -> None:
    report = check_repository(whole.repository)
    assert not report.findings
    card = json.loads((whole.repository / "genre_cnn" / "1" / "model_card.json").read_text())
    assert card["labels"]["labels.txt"] == list(LABELS)
    assert card["data"]["fingerprint"]
    assert card["metrics"]["test"]["n"] > 0
    assert str(whole.data) in card["data"]["source"]


def test_classify_from_the_command_line(whole: Whole) -> None:
    command = [sys.executable, "-m", "tritone_cli", "classify", str(whole.data / "high" / "1.flac"), "--json"]
    done = subprocess.run(
        [*command, "--server", whole.server.grpc_url], capture_output=True, text=True, timeout=60, check=True
    )
    (result,) = json.loads(done.stdout)["results"]
    assert set(result["probabilities"]) == set(LABELS)
    assert result["duration_s"] == pytest.approx(4.5, abs=1 / SAMPLE_RATE_HZ)


def test_a_new_version_goes_live_without_a_restart(whole: Whole) -> None:
    kind = get_kind("genre_cnn")
    with MusicClient(whole.server.grpc_url) as music:
        before = music.classify(whole.data / "low" / "1.flac").model_version
        result = export_model(kind.export(whole.checkpoint), kind, repository=whole.repository)
        whole.server.load_model("genre_cnn")
        after = music.classify(whole.data / "low" / "2.flac").model_version
    assert int(after) == result.version == int(before) + 1
