"""README's examples of recommending run as written, against a small recommender of the demonstration's log."""

from __future__ import annotations

import functools
import importlib
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.unit.client.recommenders import FakeRecommender

import tritone
import tritone_serving
from tritone import (
    InferRequest,
    InferResponse,
    MusicClient,
    NothingKnownError,
    RequestRejectedError,
    constants,
)
from tritone_serving.recommender import TRUSTED, Question, QuestionError, Recommender, Search, read_key, write_artifact
from tritone_serving.recommender.artifact import EMBEDDINGS, open_artifact
from tritone_training.kind import TrainRequest
from tritone_training.registry import get_kind

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python_block(of: str) -> str:
    """The code block of README that holds a text."""
    return next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if of in block)


def shell_lines() -> list[str]:
    """Every command of README that recommends or looks tracks up."""
    prose = README.replace("\n", " ")
    found = re.findall(r"`(tritone (?:recommend|similar|tracks) [^`]*)`", prose)
    return [re.sub(r" \[[^]]*\]", "", line) for line in found]


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """What the demonstration serves, trained with less; embeddings are drawn, since nothing here is heard."""
    folder = tmp_path_factory.mktemp("demonstration")
    overrides = {"taste": 0, "n_listed": 0}
    run = folder / "run"
    get_kind("recommender").train(TrainRequest(out=run, preset="tiny", progress=False, overrides=overrides))
    artifact = open_artifact(run / "artifact")
    embeddings = np.random.default_rng(0).standard_normal((artifact.n_items, 256)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    described = {name: value for name, value in artifact.manifest.items() if name not in ("arrays", "format")}
    members = {**described["members"], "sound": {"kind": "sound", "scale": 0.1}}
    arrays = {**artifact.arrays, EMBEDDINGS: embeddings, "sound.centre": embeddings.mean(0)}
    write_artifact(folder / "artifact", {**described, "members": members}, arrays)
    return Recommender.open(folder / "artifact", key=read_key(run / "recommender.key"))


class InProcess(FakeRecommender):
    """A server whose recommender is the real one, by the backend's own modules; every caller is trusted."""

    recommender: Recommender
    backend: Callable[[str], Any]

    def handle(self, request: Any, *, timeout_s: float) -> Any:
        if not isinstance(request, InferRequest) or request.model != "recommender":
            return super().handle(request, timeout_s=timeout_s)
        questions, answers, alike = map(self.backend, ("questions", "answers", "alike"))
        [asked] = questions.read_questions(dict(request.inputs), TRUSTED)
        try:
            if isinstance(asked, Question):
                [answer] = self.recommender.answer([asked])
                if isinstance(answer, QuestionError):
                    raise answer
                row = answers.row_of(answer)
            elif isinstance(asked, Search):
                row = answers.row_of_search(self.recommender.search(asked))
            else:
                row = answers.row_of_similar(alike.Alike(self.recommender).similar(asked))
        except QuestionError as error:
            kind = NothingKnownError if re.match("none of|item|nothing is", str(error)) else RequestRejectedError
            raise kind(str(error), model=request.model) from error
        tensors = answers.Tensors(self.recommender)
        outputs = {name: _decoded(tensors.make(name, [row])) for name in request.outputs}
        return InferResponse(request.model, "1", request.request_id, outputs)


def _decoded(array: Any) -> Any:
    """Text as transports hand it over."""
    if array.dtype != object:
        return array
    values = [[each.decode() for each in row] for row in array.tolist()]
    made = np.empty(array.shape, object)
    made[:] = values
    return made


@pytest.fixture
def served(demonstration: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcess]:
    monkeypatch.syspath_prepend(str(Path(tritone_serving.__file__).parent / "backends" / "cf_ensemble"))
    monkeypatch.delenv("TRITONE_SERVER", raising=False)
    monkeypatch.chdir(tmp_path)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 22_050 * 4)
    soundfile.write("song.mp3", samples, 22_050)
    made = InProcess()
    made.recommender = demonstration
    made.backend = lambda part: importlib.import_module(f"tritone_cf_{part}")
    yield made
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_the_python_example_runs(served: InProcess, capsys: pytest.CaptureFixture[str]) -> None:
    with MusicClient("in-process:1", transport=served, retries=0) as music:
        names: dict[str, Any] = {"music": music}
        exec(compile(python_block("music.recommend("), "README.md", "exec"), names)  # noqa: S102 - README's own code
    said = capsys.readouterr().out
    assert "history UnknownIds(user=False, history=()" in said
    assert "Reason(member=" in said
    tracks, page = names["tracks"], names["page"]
    assert len(tracks) == 10
    assert page[0].track_id == "ryans/FairyDanceReel"
    titles = {reason.id: reason.title for track in tracks for reason in track.reasons if reason.because == "history"}
    recommender = served.recommender
    for item, title in titles.items():
        assert title == (recommender.texts_of(recommender.item_ids.index(item))[0] if item else None)


@pytest.mark.parametrize("line", shell_lines())
def test_the_commands_run(
    served: InProcess, run_tritone: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    patched = functools.partial(tritone.MusicClient, transport=served, retries=0)
    monkeypatch.setattr(tritone, "MusicClient", patched)
    ended = run_tritone(*shlex.split(line)[1:], "--json")
    assert ended.status == 0, ended.stderr
    answer = json.loads(ended.stdout)
    found = answer.get("recommendations", answer.get("tracks"))
    assert found
    assert not any(answer.get("unknown", {}).values())


def test_there_are_commands_of_every_verb() -> None:
    assert {line.split()[1] for line in shell_lines()} == {"recommend", "similar", "tracks"}


def test_names_that_readme_mentions_exist(demonstration: Recommender) -> None:
    for item in re.findall(r"\b(?:ryans|bach|essen|palestrina)/[\w.-]*\w", README):
        assert demonstration.resolver.item(item) is not None, item
    for user in re.findall(r"listener-\d+", README):
        assert demonstration.resolver.user(user) >= 0, user
    for attribute in re.findall(r'attribute="(\w+)"', README):
        assert attribute in constants.ATTRIBUTES
    for mood in re.findall(r'mood="(\w+)"', README):
        assert mood in constants.EMOTIONS
