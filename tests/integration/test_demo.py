"""The demo from beginning to end on a real server: its files, its page, and a second run.

The corpus is small and the models are tiny, and so are the starter weights of one kind. Most are copies of models that
other tests trained and exported, as if from an earlier run; the demo itself makes those that are missing or damaged.
"""

from __future__ import annotations

import html
import json
import os
import shlex
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from tests.support import music_models
from tests.support.cache import copy_cached
from tests.support.starter_stand_in import write_stand_ins

from examples.demo.models import GENERATORS, ModelBuilder
from tritone import MusicClient
from tritone.music.scores import to_grid
from tritone_serving import ServerOptions, TritonServer
from tritone_training.corpus import load_corpus
from tritone_training.corpus.build import FORMAT

# Where no other test has asked for the models before, they are trained and exported here.
pytestmark = [pytest.mark.triton, pytest.mark.timeout(1800)]

N_PER_COLLECTION = 8
DAMAGED = "music_gan"
STARTER = "music_transformer"
FIRST = "first.json"
ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "examples.demo", "--preset", "tiny", "--repository", "models", "--json")


@dataclass(frozen=True)
class Ran:
    folder: Path
    first: dict[str, Any]
    second: dict[str, Any]
    said: str


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """Two runs, one after the other. The first, which trains models, is repeated only if the code has changed."""
    folder = tmp_path_factory.mktemp("demo")
    with use_folder(folder):
        copy_cached("demo", run_first, folder, sources=(*music_models.EXPORT, "cli/tritone_cli", "examples/demo"))
        first = json.loads((folder / FIRST).read_text(encoding="utf-8"))
        done = run_demo(folder)
        yield Ran(folder, first, json.loads(done.stdout), done.stderr)


@contextmanager
def use_folder(folder: Path) -> Iterator[None]:
    """Use a corpus, keys and tokens in this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITONE_CACHE", str(folder / "cache"))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("TRITONE_WEIGHTS", str(folder / "weights"))
        yield


def run_demo(folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr
    return done


def run_first(folder: Path) -> None:
    """Run the demo where models are missing or damaged, and keep its models and its answer."""
    with use_folder(folder):
        corpus = load_corpus(progress=False, n_per_collection=N_PER_COLLECTION)
        corpus.path.rename(folder / "cache" / f"catalogue-v{FORMAT}")  # where the whole one is looked for
        write_stand_ins(folder / "weights", [STARTER])
        place_models(folder, corpus.fingerprint)
        answer = run_demo(folder).stdout
    for path in (folder / "demo").iterdir():
        if path.name != "checkpoints":  # the second run writes the rest again
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / FIRST).write_text(answer, encoding="utf-8")


def place_models(folder: Path, fingerprint: str) -> None:
    known: Any = SimpleNamespace(fingerprint=fingerprint)
    repository = folder / "models"
    builder = ModelBuilder(
        out=folder / "demo",
        repository=repository,
        corpus=known,
        seed=0,
        preset="tiny",
        retrain=False,
        progress=False,
    )
    for kind in GENERATORS:
        served = music_models.served(kind)
        shutil.copytree(served.checkpoint, builder.checkpoints / kind)
        builder.mark_complete(kind)
        for result in served.results:
            shutil.copytree(served.repository / result.model, repository / result.model)
    (weights,) = (builder.checkpoints / DAMAGED).glob("weights-*.pt")
    weights.write_bytes(b"half of it")


def all_pieces(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [piece for each in answer["music"] for piece in (*each["given"], *each["pieces"])]


def test_damaged_and_missing_models_are_made_and_the_others_reused(ran: Ran) -> None:
    made = {kind for kind, model in ran.first["models"].items() if model["train_s"] is not None}
    assert made == {"genre_cnn", "recommender", DAMAGED}
    exported = {kind for kind, model in ran.first["models"].items() if model["export_s"] is not None}
    assert exported == made | {STARTER}  # under another name than before
    built = (*ran.first["starters"].values(), *ran.first["models"].values())
    versions = {v["model"]: v["version"] for model in built for v in model["versions"]}
    assert versions.pop(DAMAGED) == versions.pop(STARTER) == versions.pop("composer") == 2
    assert set(versions.values()) == {1}
    assert {"genre_cnn", "music_vae_decoder", "polyphony_rnn_sampler"} <= set(versions)
    assert {f"small_{STARTER}", f"small_{STARTER}_composer"} <= set(versions)
    assert {"recommender", "taste_vae", "recording_recommender"} <= set(versions)


def test_a_second_run_trains_nothing_and_returns_the_same_results(ran: Ran) -> None:
    for model in (*ran.second["starters"].values(), *ran.second["models"].values()):
        assert model["train_s"] is None
        assert model["export_s"] is None
    assert "was trained before" in ran.said
    assert "trained in" not in ran.said
    facts = [
        [(p["seed"], p["n_notes"], p["model"], p["model_version"]) for p in all_pieces(answer)]
        for answer in (ran.first, ran.second)
    ]
    assert facts[0] == facts[1]
    suggested = [[tracks_of(each) for each in answer["recommended"]] for answer in (ran.first, ran.second)]
    assert suggested[0] == suggested[1]


def test_starter_weights_are_served_at_once_and_compared_with_the_small_model(ran: Ran) -> None:
    assert set(ran.second["starters"]) == {STARTER}
    said = [line for line in ran.said.splitlines() if "these models are served at" in line or "listen: " in line]
    assert ran.said.index(said[-1]) < ran.said.index("training and exporting")
    assert (ran.folder / said[-1].partition("listen: ")[2]).is_file()
    text = (ran.folder / ran.second["page"]).read_text(encoding="utf-8")
    assert ran.second["comparisons"]
    for each in ran.second["comparisons"]:
        (starter,), (small,) = each["starter"]["pieces"], each["small"]["pieces"]
        assert (starter["model"], small["model"]) == (STARTER, f"small_{STARTER}")
        assert starter["seed"] == small["seed"]
        for piece in (starter, small):
            assert f'"{Path(piece["midi"]).relative_to("demo").as_posix()}"' in text
    assert f"{STARTER}: starter weights, which come with Tritone" in text


def tracks_of(answer: dict[str, Any]) -> list[str]:
    return [each["track_id"] for each in answer["recommendations"]]


def test_every_listener_gets_recommendations_with_reasons(ran: Ran) -> None:
    recommended = ran.second["recommended"]
    assert [each["source"] for each in recommended] == ["user", "history", "friends", "audio", "popularity"]
    for each in recommended:
        assert len(set(tracks_of(each))) == len(each["recommendations"]) == 8
        assert all(each["because"])
        for track in each["recommendations"]:
            assert sum(reason["amount"] for reason in track["reasons"]) == pytest.approx(track["score"], abs=1e-3)
    known, songs, _, recording, _ = recommended
    assert any(reason["because"] == "history" for track in known["recommendations"] for reason in track["reasons"])
    assert not set(tracks_of(songs)) & set(songs["python"].split("'")), "what was just heard is not recommended"
    assert any("sounds like the recording" in words for words in recording["because"][0])
    assert any(reason["base_model"] == "sound" for reason in recording["recommendations"][0]["reasons"])


def test_all_files_exist_and_have_the_format_of_their_suffix(ran: Ran) -> None:
    pieces = all_pieces(ran.second)
    assert len(pieces) > 20
    for piece in pieces:
        grid = to_grid(ran.folder / piece["midi"])
        assert grid.n_notes == piece["n_notes"]
        with Image.open(ran.folder / piece["png"]) as picture:
            assert picture.format == "PNG"
            assert np.asarray(picture.convert("L")).std() > 1
        if piece["wav"] is None:
            assert piece["n_notes"] == 0
            continue
        with wave.open(str(ran.folder / piece["wav"])) as sound:
            samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
            # Sound ends with the last note, which in an untrained network's music may come long before the end.
            assert 0.5 < sound.getnframes() / sound.getframerate() < piece["duration_s"] + 2.5
        assert np.abs(samples).max() > 10_000
    assert (ran.folder / ran.second["medley"]["path"]).is_file()
    assert (ran.folder / ran.second["medley"]["picture"]).is_file()
    assert all((ran.folder / each["path"]).is_file() for each in ran.second["recordings"])
    for each in ran.second["recommended"]:
        with Image.open(ran.folder / each["picture"]) as picture:
            assert np.asarray(picture.convert("L")).std() > 1
        for path in each["sounds"]:
            samples, rate_hz = soundfile.read(ran.folder / path)
            assert len(samples) / rate_hz == pytest.approx(20.0, abs=0.1)
            assert np.abs(samples).max() > 0.05


def test_the_page_shows_every_piece(ran: Ran) -> None:
    page = ran.folder / ran.second["page"]
    text = page.read_text(encoding="utf-8")
    for piece in all_pieces(ran.second):
        for file in (piece["midi"], piece["wav"], piece["png"]):
            if file is not None:
                assert f'"{Path(file).relative_to("demo").as_posix()}"' in text
    for each in ran.second["music"]:
        assert each["title"].replace("'", "&#x27;") in text
    for each in ran.second["recommended"]:
        assert each["title"] in text
        assert each["command"] in html.unescape(text)
        assert f'"{Path(each["picture"]).relative_to("demo").as_posix()}"' in text
    assert "The listening log is simulated" in text
    assert text.count("seed 7") >= len(ran.second["music"]) - 1


def test_streaming_is_reported_and_exact(ran: Ran) -> None:
    stream = ran.second["stream"]
    assert stream["same_as_unstreamed"] is True
    assert 0 < stream["first_notes_ms"] < stream["whole_ms"]


def test_the_commands_on_the_page_return_the_same_results(ran: Ran, run_tritone: Callable[..., Any]) -> None:
    options = ServerOptions(repository=ran.folder / "models", http_port=0, grpc_port=0, metrics_port=0)
    with (
        pytest.MonkeyPatch.context() as patch,
        TritonServer.start(options) as server,
        MusicClient(server.grpc_url) as music,
    ):
        patch.chdir(ran.folder)
        for each in ran.second["music"]:
            answer = eval(each["python"], {"music": music})  # noqa: S307 - our own page's line
            if "stream_compose" in each["python"]:
                with answer as stream:
                    assert sum(1 for _ in stream) > 1
                    answer = stream.result()
            found = answer if isinstance(answer, tuple) else (answer,)
            for piece, saved in zip(found, each["pieces"], strict=True):
                assert piece.seed == saved["seed"]
                assert piece.score.dumps_midi() == Path(saved["midi"]).read_bytes(), each["python"]
        for each in ran.second["recommended"]:
            answer = eval(each["python"], {"music": music})  # noqa: S307 - our own page's line
            assert list(answer.track_ids) == tracks_of(each), each["python"]
            ended = run_tritone(*shlex.split(each["command"])[1:], "--json", "--server", server.grpc_url)
            assert ended.status == 0, ended.stderr
            assert tracks_of(json.loads(ended.stdout)) == tracks_of(each)
        for each in ran.second["music"][:5:2]:
            ended = run_tritone(*shlex.split(each["command"])[1:], "--server", server.grpc_url)
            assert ended.status == 0, ended.stderr
            (saved,) = each["pieces"]
            assert Path(f"{each['name']}.mid").read_bytes() == Path(saved["midi"]).read_bytes()
