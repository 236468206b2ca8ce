"""Training that begins with the weights of an earlier checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.training import sounds
from tests.unit.training.small_data import write_log, write_scores, write_sequences

from tritone_training import CheckpointError, TrainingError, UnsupportedOptionError, checkpoint, train

pytestmark = pytest.mark.slow

STILL = {"learning_rate": 1e-12, "weight_decay": 0.0}  # whatever training does, the weights stay where they began


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    scores = write_scores(folder)
    return {
        "genre_cnn": sounds.write_folders(folder / "sounds", n_each=6),
        "taste_vae": write_log(folder),
        "taste_sequence": write_sequences(folder),
        **dict.fromkeys(("polyphony_rnn", "music_transformer", "music_vae", "music_gan"), scores),
    }


# Weights that are fitted again, after the network that begins with the checkpoint's.
FITTED = {"music_vae": ("flow.", "attribute_curves")}


def run(kind: str, data: Path, out: Path, **options: Any) -> Any:
    source = {"interactions": data} if kind == "taste_vae" else {"data": data}
    extra = {"music_gan": {"steps_per_epoch": 1, "pool_size": 64, "n_judged": 64}, "music_vae": {"spans_per_epoch": 64}}
    settings = {**extra.get(kind, {}), **options.pop("settings", {})}
    return train(kind, **source, out=out, preset="tiny", max_epochs=1, progress=False, settings=settings, **options)


@pytest.mark.parametrize("kind", ["genre_cnn", "polyphony_rnn", "music_transformer", "music_vae"])
def test_training_begins_with_the_weights_of_the_checkpoint(kind: str, data: dict[str, Path], tmp_path: Path) -> None:
    first = run(kind, data[kind], tmp_path / "first")
    second = run(kind, data[kind], tmp_path / "second", warm_start=first, seed=7, settings=STILL)
    before, after = (checkpoint.load(run_.folder, kind=kind).weights for run_ in (first, second))
    learned = [name for name in before if "running" not in name and "num_batches" not in name]
    learned = [name for name in learned if not name.startswith(FITTED.get(kind, "-"))]
    assert learned
    for name in learned:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=1e-5)
    fresh = checkpoint.load(run(kind, data[kind], tmp_path / "cold", seed=7, settings=STILL).folder, kind=kind).weights
    assert any(not torch.allclose(fresh[name], before[name]) for name in learned), "without, it begins elsewhere"
    assert second.warm_start["n_loaded"] >= len(learned)
    assert checkpoint.read_info(second.folder)["warm_start"] == second.warm_start


def test_a_gan_needs_the_same_autoencoder(data: dict[str, Path], tmp_path: Path) -> None:
    run("music_vae", data["music_vae"], tmp_path / "music_vae")
    first = run("music_gan", data["music_gan"], tmp_path / "first")
    second = run(
        "music_gan", data["music_gan"], tmp_path / "second", warm_start=first, seed=7, settings={"learning_rate": 1e-12}
    )
    name = "generator.correction.0.weight"
    before, after = (checkpoint.load(each.folder, kind="music_gan").weights[name] for each in (first, second))
    torch.testing.assert_close(after, before)
    assert second.warm_start["not_loaded"]["vae.attribute_curves"] == "the music_vae is not trained"
    elsewhere = tmp_path / "elsewhere"
    run("music_vae", data["music_vae"], elsewhere / "music_vae", seed=5)
    with pytest.raises(TrainingError, match="expected a generator for the music_vae"):
        run("music_gan", data["music_gan"], elsewhere / "run", warm_start=first)


def test_a_taste_sequence_keeps_its_encoder_and_the_vectors_of_the_items_that_both_know(
    data: dict[str, Path], tmp_path: Path
) -> None:
    first = run("taste_sequence", data["taste_sequence"], tmp_path / "first")
    other = tmp_path / "other"
    other.mkdir()
    log = write_sequences(other, n_items=44)
    second = run("taste_sequence", log, tmp_path / "second", warm_start=first, seed=7, settings=STILL)
    folders = (first.folder / "selection", second.folder)  # a warm start takes the served network, which is refitted
    infos = [checkpoint.read_info(each) for each in folders]
    before, after = (checkpoint.load(each.folder, kind="taste_sequence").weights for each in (first, second))
    assert [name for name in before if ".encoder." in name]
    for name in before:
        if ".encoder." in name:
            torch.testing.assert_close(after[name], before[name], atol=1e-5, rtol=1e-4)
    both = sorted(set(infos[0]["items"]) & set(infos[1]["items"]))
    assert len(both) > 30
    rows = [torch.tensor([info["items"].index(name) for name in both]) for info in infos]
    for name in ("members.0.embedding.weight", "members.1.output_vectors"):
        torch.testing.assert_close(after[name][rows[1]], before[name][rows[0]], atol=1e-4, rtol=1e-3)
    assert second.warm_start["not_loaded"]["items"].endswith("are not in the checkpoint")
    with pytest.raises(TrainingError, match="expected encoders of the same number and size"):
        run("taste_sequence", log, tmp_path / "third", warm_start=first, settings={"size": 16})


def test_a_taste_vae_keeps_the_vectors_of_the_items_that_both_know(data: dict[str, Path], tmp_path: Path) -> None:
    first = run("taste_vae", data["taste_vae"], tmp_path / "first")
    other = tmp_path / "other"
    other.mkdir()
    log = write_log(other, n_items=44)  # i22 to i43 instead of i20 to i39, in other places
    still = {"learning_rate": 1e-12, "weight_decay": 0.0}
    second = run("taste_vae", log, tmp_path / "second", warm_start=first, seed=7, settings=still)
    infos = [checkpoint.read_info(each.folder)["items"] for each in (first, second)]
    weights = [checkpoint.load(each.folder, kind="taste_vae").weights for each in (first, second)]
    common = sorted(set(infos[0]) & set(infos[1]))
    assert 20 < len(common) < len(infos[1])
    for name in ("embedding.weight", "directions"):
        before, after = (
            w[name][[items.index(item) for item in common]] for w, items in zip(weights, infos, strict=True)
        )
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)
    assert second.warm_start["not_loaded"]["items"].startswith(f"{len(infos[1]) - len(common)} of {len(infos[1])}")
    with pytest.raises(TrainingError, match=r"expected codes of size 5, got .*--set latent="):
        run("taste_vae", log, tmp_path / "third", warm_start=first, settings={"latent": 5})


def test_heads_of_other_labels_are_initialised_and_reported(data: dict[str, Path], tmp_path: Path) -> None:
    first = run("genre_cnn", data["genre_cnn"], tmp_path / "first")
    other = sounds.write_folders(tmp_path / "other", n_each=6)
    (other / "hum").rename(other / "drone")
    second = run("genre_cnn", other, tmp_path / "second", warm_start=first, settings=STILL)
    assert second.warm_start["not_loaded"] == {
        "genre_head.weight": "the labels differ",
        "genre_head.bias": "the labels differ",
    }


def test_other_shapes_are_reported_and_other_kinds_refused(data: dict[str, Path], tmp_path: Path) -> None:
    first = run("genre_cnn", data["genre_cnn"], tmp_path / "first")
    wider = run("genre_cnn", data["genre_cnn"], tmp_path / "wider", warm_start=first, settings={"width": 5})
    assert wider.warm_start["not_loaded"]["body.convolutions.0.weight"] == "shape (4, 1, 5, 5), expected (5, 1, 5, 5)"
    with pytest.raises(CheckpointError, match="is a checkpoint of 'genre_cnn', expected 'polyphony_rnn'"):
        run("polyphony_rnn", data["polyphony_rnn"], tmp_path / "wrong", warm_start=first)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        run("genre_cnn", data["genre_cnn"], tmp_path / "wrong", warm_start=tmp_path / "nowhere")
    with pytest.raises(UnsupportedOptionError) as caught:
        train("recommender", interactions=data["taste_vae"], out=tmp_path / "wrong", warm_start=first, progress=False)
    assert caught.value.options == ("warm_start",)
    assert not (tmp_path / "wrong").exists()
