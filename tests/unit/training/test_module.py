from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.unit.training import sounds
from torch.utils.data import DataLoader

from tritone_training import fitting
from tritone_training.data.loading import load_recordings
from tritone_training.kind import TrainRequest
from tritone_training.kinds.genre_cnn.config import GenreConfig
from tritone_training.kinds.genre_cnn.dataset import CropDataset, compute_features, validation_dataset
from tritone_training.kinds.genre_cnn.frontend import MelFeatures
from tritone_training.kinds.genre_cnn.module import MONITOR, GenreModule
from tritone_training.kinds.genre_cnn.network import build_network


def test_the_weights_that_are_kept_are_those_that_were_validated(folders: Path, tmp_path: Path) -> None:
    recordings = [r for r in load_recordings(folders).recordings if r.name[-5] in "0123"]
    frontend = MelFeatures()
    features = compute_features(recordings, frontend).by_name
    labels = sorted(sounds.SOUNDS)
    config = GenreConfig(width=2, max_epochs=2, batch_size=8, average_from=0.0)
    fitting.seed_everything(0)
    network = build_network(config, frontend, n_labels=2, with_emotions=False)
    module = GenreModule(network, config, n_labels=2, on_spectrogram=True)
    train = CropDataset(recordings, features, labels, n_units=128, n_crops=1, random=True)
    valid = validation_dataset(recordings, features, labels, n_units=128)
    fitted = fitting.fit(
        module,
        DataLoader(train, batch_size=8),
        valid,
        request=TrainRequest(tmp_path, progress=False),
        settings={},
        batch_size=8,
        monitor=MONITOR,
        max_epochs=2,
        patience=9,
    )
    kept = {
        name.removeprefix("averaged."): t for name, t in fitted.best_weights.items() if name.startswith("averaged.")
    }
    network.load_state_dict(kept)
    network.eval()
    losses = []
    with torch.inference_mode():
        for start in range(0, len(valid), 6):  # six crops a recording
            crops = [valid[index] for index in range(start, start + 6)]
            logits, _, _ = network.heads(torch.stack([window for window, _, _ in crops]))
            losses.append(-torch.softmax(logits, 1).mean(0)[crops[0][1]].log().item())
    assert sum(losses) / len(losses) == pytest.approx(fitted.best_score, rel=1e-4)
